/** Renders a file's chat template (Jinja). A template is foreign text: of the host it gets the date, and what it may do is bounded. */
import { Environment, Template } from '@huggingface/jinja'
import { createError } from '../errors/index.js'
import { BoundedInterpreter } from './bounded-interpreter.js'

/** One turn. Further fields (name, tool calls) reach the template as they are, but this type asks for none. */
export interface ChatMessage {
  role: string
  content: unknown
}

export interface ChatOptions {
  /** Ends the text with the start of the assistant's turn; true where left out. */
  addGenerationPrompt?: boolean
  /** What `strftime_now` tells, in local time; the present where left out. */
  now?: Date
}

/** For models that have none: each turn on a line of its own, as a play has it. */
const plainTemplate =
  '{{ bos_token }}{% for message in messages %}{{ message.role | upper }}: {{ message.content }}\n{% endfor %}{% if add_generation_prompt %}ASSISTANT:{% endif %}'

/** A template by its name, or as it is. */
export const namedTemplate = (template: string | undefined): string | undefined =>
  template === 'plain' ? plainTemplate : template

/** A text that none of the others has: noncharacters of Unicode around a number. */
export function unusedMark(messages: readonly ChatMessage[], template = ''): string {
  const text = JSON.stringify(messages) + template
  for (let i = 0; ; i++) {
    const mark = `\ufdd0${i}\ufdd1`
    if (!text.includes(mark)) return mark
  }
}

/** The same value with other texts. */
export function withTexts<Value>(value: Value, change: (text: string) => string): Value
export function withTexts(value: unknown, change: (text: string) => string): unknown {
  if (typeof value === 'string') return change(value)
  if (Array.isArray(value)) return value.map((inner) => withTexts(inner, change))
  if (typeof value !== 'object' || value === null) return value
  return Object.fromEntries(Object.entries(value).map(([name, inner]) => [name, withTexts(inner, change)]))
}

/** Elements that all `range` calls of one rendering may make together: a template loops over messages, not to a million. */
const RANGE_BUDGET = 100_000

/** A `range` as Jinja's that refuses to fill memory. */
function boundedRange(): (...args: unknown[]) => number[] {
  let left = RANGE_BUDGET
  return (...args) => {
    const numbers = args.filter((arg): arg is number => typeof arg === 'number')
    const [start, stop, step] =
      numbers.length === 1 ? [0, numbers[0]!, 1] : [numbers[0] ?? 0, numbers[1] ?? 0, numbers[2] ?? 1]
    const count = step === 0 ? Number.NaN : Math.max(0, Math.ceil((stop - start) / step))
    left -= count
    if (!(left >= 0)) throw new RangeError(`range(${numbers.join(', ')}) is more than a template may loop over`)
    return Array.from({ length: count }, (_, i) => start + i * step)
  }
}

/** Characters of a template's own message. */
const LONGEST_REASON = 1000

const MONTHS = 'January February March April May June July August September October November December'.split(' ')
const DAYS = 'Sunday Monday Tuesday Wednesday Thursday Friday Saturday'.split(' ')

/** Python's strftime, in English, for what templates ask; another directive stays as it is. */
function strftime(date: Date, format: string): string {
  const two = (value: number): string => String(value).padStart(2, '0')
  const [month, day] = [MONTHS[date.getMonth()]!, DAYS[date.getDay()]!]
  const values: Record<string, string> = {
    Y: String(date.getFullYear()),
    y: two(date.getFullYear() % 100),
    m: two(date.getMonth() + 1),
    d: two(date.getDate()),
    B: month,
    b: month.slice(0, 3),
    A: day,
    a: day.slice(0, 3),
    H: two(date.getHours()),
    I: two(date.getHours() % 12 || 12),
    p: date.getHours() < 12 ? 'AM' : 'PM',
    M: two(date.getMinutes()),
    S: two(date.getSeconds()),
    '%': '%'
  }
  return format.replace(/%([YymdBbAaHIpMS%])/g, (_, directive: string) => values[directive]!)
}

/**
 * The text of a conversation. CHAT_TEMPLATE_INVALID {reason}: no template, one that cannot be parsed, or one that refuses the messages.
 */
export function renderChat(
  template: string | undefined,
  messages: readonly ChatMessage[],
  tokens: { bos: string; eos: string },
  { addGenerationPrompt = true, now }: ChatOptions = {}
): string {
  if (template === undefined) {
    throw createError('CHAT_TEMPLATE_INVALID', 'the file has no chat template: give a prompt instead of messages', {
      reason: 'missing'
    })
  }
  try {
    const environment = new Environment()
    const globals: Record<string, unknown> = {
      true: true,
      false: false,
      none: null,
      True: true,
      False: false,
      None: null,
      range: boundedRange(),
      raise_exception(message: unknown) {
        throw new SyntaxError(String(message))
      },
      strftime_now: (format: unknown) => strftime(now ?? new Date(), String(format)),
      messages,
      // templates tell them from nothing, as transformers gives them
      tools: null,
      documents: null,
      add_generation_prompt: addGenerationPrompt,
      bos_token: tokens.bos,
      eos_token: tokens.eos
    }
    for (const [name, value] of Object.entries(globals)) environment.set(name, value)
    const rendered: unknown = new BoundedInterpreter(environment, JSON.stringify(messages).length).run(
      new Template(template).parsed
    )
    return String((rendered as { value: unknown }).value)
  } catch (cause) {
    // a template may raise whatever it made
    const reason = (cause instanceof Error ? cause.message : String(cause)).slice(0, LONGEST_REASON)
    throw createError('CHAT_TEMPLATE_INVALID', `the chat template failed: ${reason}`, { reason }, { cause })
  }
}
