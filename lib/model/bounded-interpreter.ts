/** Jinja in bounded time and memory: a template is foreign text, and loops in loops or a macro that calls itself twice would take for ever. */
import { Interpreter } from '@huggingface/jinja'

interface Value {
  readonly type: string
  readonly value: unknown
}
/** A node of a parsed template. */
interface Statement {
  readonly type: string
  readonly property?: Statement
  readonly filter?: { readonly value?: unknown }
}
/** What is used of the package's class: its declarations cannot be read from ES modules. */
const Base = Interpreter as unknown as new (
  environment: unknown
) => {
  run(program: unknown): Value
  evaluate(statement: Statement | undefined, scope: unknown): Value
}

/**
 * What one rendering may spend: 1 for a character that a step looks at, and so much for an element of a list, for the step itself and for each
 * step beyond 50 that it is inside of: a name is looked for in the scopes of all of them.
 */
const BUDGET = 6e7
const ELEMENT = 50
const STEP = 200
const LEVEL = 12
const FREE_LEVELS = 50
/** Steps that a call counts for: it makes a scope of its own, and lists of what it is given. */
const CALL = 4
/** Elements of a value and of all that it holds, as often as it holds them; 80 characters of a text are one. */
const LARGEST = 1e5

/** Characters of a text beside four times what the messages have: what cuts a text up makes objects of its parts before they can be counted. */
const LONGEST_TEXT = 2 ** 18

/** Throws RangeError where a template does more than any conversation needs. */
export class BoundedInterpreter extends Base {
  private left = BUDGET
  private depth = 0
  /** Characters and elements of what the parts of the statement came to that is being evaluated. */
  private characters = 0
  private elements = 0
  private readonly sizes = new WeakMap<Value, number>()
  private readonly longestText: number

  /** @param given characters of the messages */
  constructor(environment: unknown, given: number) {
    super(environment)
    this.longestText = LONGEST_TEXT + 4 * given
  }

  override evaluate(statement: Statement | undefined, scope: unknown): Value {
    const { characters, elements } = this
    this.characters = 0
    this.elements = 0
    this.depth++
    try {
      const value = super.evaluate(statement, scope)
      if (this.sizeOf(value) > LARGEST) throw new RangeError('a value is larger than a template may make')
      this.left -=
        STEP * (isCall(statement) ? CALL : 1) +
        LEVEL * Math.max(0, this.depth - FREE_LEVELS) +
        this.characters +
        (looksUp(statement) ? 0 : ELEMENT * this.elements)
      if (this.left < 0) throw new RangeError('it does more than a template may do')
      this.characters = typeof value.value === 'string' ? value.value.length : 0
      this.elements = innerOf(value)?.length ?? 0
      return value
    } finally {
      this.depth--
      this.characters += characters
      this.elements += elements
    }
  }

  private sizeOf(value: Value): number {
    if (typeof value.value === 'string')
      return value.value.length > this.longestText ? Infinity : 1 + value.value.length / 80
    const known = this.sizes.get(value)
    if (known !== undefined) return known
    const inner = innerOf(value)
    if (!inner) return 1
    let size = 1
    for (const one of inner) {
      // what can change cannot be measured once
      if (one.type === 'NamespaceValue') throw new RangeError('a namespace is inside of another value')
      size += this.sizeOf(one)
    }
    if (value.type !== 'NamespaceValue') this.sizes.set(value, size)
    return size
  }
}

/** What is inside of a list, a tuple, a dictionary or a namespace. */
function innerOf({ value }: Value): readonly Value[] | undefined {
  return Array.isArray(value) ? value : value instanceof Map ? [...value.values()] : undefined
}

const isCall = (statement: Statement | undefined): boolean =>
  statement?.type === 'CallExpression' || statement?.type === 'FilterExpression'

/** Whether it takes one element of a value, or its length, without looking at the others. */
const looksUp = (statement: Statement | undefined): boolean =>
  (statement?.type === 'MemberExpression' && statement.property?.type !== 'SliceExpression') ||
  (statement?.type === 'FilterExpression' && statement.filter?.value === 'length')
