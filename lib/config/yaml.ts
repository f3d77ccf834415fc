/** YAML of strangers: what the parser of the library does not bound by itself, its levels and its errors, is bounded here. */
import { Composer, type CST, type Document, Lexer, type LineCounter, Parser, YAMLParseError } from 'yaml'
import { withoutStack } from '../errors/without-stack.js'

/** The parser recurses with each, and near the end of the stack even compiling a regular expression ends the process. */
const mostLevels = 100

/** The parser compares each key with all before it, which takes minutes where there are many; and its messages would quote the text. */
const options = { uniqueKeys: false, prettyErrors: false, stringKeys: true, logLevel: 'error' } as const

/** The tokens of a text up to the first that is wrong. RangeError: nested too deeply. */
function* tokensOf(text: string, lines: LineCounter | undefined): Generator<CST.Token, void> {
  const parser = new Parser(lines?.addNewLine)
  lines?.addNewLine(0)
  for (const lexeme of new Lexer().lex(text)) {
    for (const token of parser.next(lexeme)) {
      yield token
      if (token.type === 'error') return
    }
    if (parser.stack.length > mostLevels) throw new RangeError(`more than ${mostLevels} levels`)
  }
  yield* parser.end()
}

/** The one document of a text, with its errors. RangeError: nested too deeply. */
export const parseYaml = (text: string, lines?: LineCounter): Document.Parsed =>
  withoutStack(() => {
    let first: Document.Parsed | undefined
    for (const document of new Composer(options).compose(tokensOf(text, lines), true, text.length)) {
      if (first) {
        const [start, , end] = document.range
        first.errors.push(new YAMLParseError([start, end], 'MULTIPLE_DOCS', 'there is more than one document'))
        break
      }
      first = document as Document.Parsed
    }
    return first as Document.Parsed
  })
