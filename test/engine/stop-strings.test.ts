import t from 'tap'
import { StopStrings } from '../../lib/generation/stop-strings.js'
import { random } from '../fixtures/weights.js'

function feed(stops: string[], pieces: string[]): { text: string; stopped: boolean } {
  const matcher = new StopStrings(stops)
  let text = ''
  for (const piece of pieces) {
    const result = matcher.push(piece)
    text += result.text
    const leaked = stops.find((stop) => text.includes(stop))
    if (leaked) t.fail('a stop string is never emitted', { leaked, pieces })
    if (result.stopped) return { text, stopped: true }
  }
  return { text: text + matcher.end(), stopped: false }
}

t.test('cases', async (t) => {
  t.same(feed([], ['a', 'b']), { text: 'ab', stopped: false })
  t.same(feed(['END'], ['xE', 'N', 'D', 'y']), { text: 'x', stopped: true })
  t.same(feed(['END'], ['xE', 'N', 'x']), { text: 'xENx', stopped: false })
  t.same(feed(['END'], ['EEN', 'D']), { text: 'E', stopped: true })
  t.same(feed(['aab'], ['aaab']), { text: 'a', stopped: true })
  t.same(feed(['abcd', 'bc'], ['abcd']), { text: 'a', stopped: true }, 'the one completed first wins')
  t.same(feed(['bc', 'abc'], ['xabc']), { text: 'x', stopped: true }, 'of two completed together, the longest')
  t.same(feed(['\n\n'], ['a\n', '\nb']), { text: 'a', stopped: true })
})

t.test('what cannot become a stop string is emitted at once', async (t) => {
  const matcher = new StopStrings(['STOP'])
  t.equal(matcher.push('abcST').text, 'abc')
  t.equal(matcher.push('x').text, 'STx')
  t.equal(matcher.push('S').text, '')
  t.equal(matcher.end(), 'S')
})

t.test('the result does not depend on how the text is cut', async (t) => {
  const next = random(7)
  const letters = (count: number) => Array.from({ length: count }, () => 'ab\n'[Math.floor(next() * 3)]).join('')
  for (let round = 0; round < 500; round++) {
    const text = letters(1 + Math.floor(next() * 20))
    const stops = Array.from({ length: 1 + Math.floor(next() * 3) }, () => letters(1 + Math.floor(next() * 4)))
    const pieces: string[] = []
    for (let at = 0; at < text.length; ) {
      const end = at + Math.floor(next() * 4)
      pieces.push(text.slice(at, end))
      at = end
    }
    const whole = feed(stops, [text])
    const single = feed(stops, [...text])
    const cut = feed(stops, pieces)
    if (JSON.stringify([whole, whole]) !== JSON.stringify([single, cut]))
      t.same([single, cut], [whole, whole], `${text} / ${stops}`)
  }
})
