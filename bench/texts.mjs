// Texts that the benches feed, written for this project, as different from one another as a batch of requests is.
const texts = [
  'The harbour was quiet when the letter came. Nobody on the pier could read it, so they carried it up the hill to the old keeper of the light, who put on two pairs of glasses and began aloud.',
  'function total(list) { let sum = 0; for (const item of list) { sum += item.price * item.count; } return sum; } // 12 items, 3 of them free of charge, 1 returned.',
  'KING: Who goes there, so late, under my window?\nGUARD: A friend, my lord, or one who says so.\nKING: Then let him say it louder, and to my face.\nGUARD: He is gone.\n',
  'Bread: 500 g flour, 330 g water, 9 g salt, 2 g yeast. Mix in the evening, fold twice, leave it in the cold until noon. Bake 40 minutes at 230 degrees; the crust should be darker than you dare.',
  'On the seventh day of rain the river moved its bed. Two villages woke up on the other side of it, and the maps, the marriages and the taxes all had to be drawn again.',
  'Q: How many steps are there from the gate to the tower? A: 214, if you count the broken one. Q: And back? A: 213, because everybody jumps over it on the way down.',
  '3.14159 2.71828 1.41421 0.57721 1.61803 6.02214 9.10938 1.60217 6.62607 8.31446 1.38064 2.99792 0.00729 4.66920 1.20205 0.91596',
  'Dear sister, the orchard is yours, the dog is yours, and the debts, I fear, are ours. Come before the frost. Bring the long ladder, the short saw and a patient heart.'
]

/** `count` token ids of text number `index`, repeated until it is long enough. Every index gives another sequence. */
export function textTokens(tokenizer, index, count) {
  const base = texts[index % texts.length]
  const round = Math.floor(index / texts.length)
  const ids = tokenizer.encode(round ? `${round} ${base}` : base)
  return Int32Array.from({ length: count }, (_, i) => ids[i % ids.length])
}
