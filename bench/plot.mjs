// A small SVG writer for the reports: grouped bars with a whisker from the least to the greatest run.

const escapeXml = (text) =>
  String(text).replace(/[&<>"]/g, (c) => ({ '&': '&amp;', '<': '&lt;', '>': '&gt;', '"': '&quot;' })[c])
const colours = ['#1f6f8b', '#c86b3c', '#8a8f3c', '#7a4f8f']

/**
 * Bars grouped by `groups`, one of each of `series`: `{ name, values: ({ median, min, max } | undefined)[] }`.
 * Each group has its own scale, because prefill and decode differ by orders of magnitude. Returns the SVG text.
 */
export function groupedBars({ title, unit, groups, series }) {
  const [barWidth, gap, height, top, bottom] = [34, 40, 220, 48, 70]
  const groupWidth = series.length * barWidth + gap
  const width = Math.max(480, groups.length * groupWidth + 2 * gap)
  const parts = []
  for (const [g, group] of groups.entries()) {
    const left = gap + g * groupWidth
    const greatest = Math.max(...series.map((s) => s.values[g]?.max ?? 0), Number.MIN_VALUE)
    for (const [i, { values }] of series.entries()) {
      const value = values[g]
      if (!value) continue
      const y = (x) => top + height * (1 - x / greatest)
      const x = left + i * barWidth
      const centre = x + barWidth / 2 - 2
      parts.push(
        `<rect x="${x}" y="${y(value.median).toFixed(1)}" width="${barWidth - 4}" height="${(top + height - y(value.median)).toFixed(1)}" fill="${colours[i % colours.length]}"/>`,
        `<path d="M${centre} ${y(value.min).toFixed(1)}V${y(value.max).toFixed(1)}" stroke="#222" stroke-width="1.5"/>`,
        `<text x="${centre}" y="${(y(value.max) - 4).toFixed(1)}" text-anchor="middle">${Number(value.median.toPrecision(3))}</text>`
      )
    }
    parts.push(
      `<text x="${left + (series.length * barWidth) / 2}" y="${top + height + 18}" text-anchor="middle">${escapeXml(group)}</text>`
    )
  }
  const legend = series.map(
    ({ name }, i) =>
      `<rect x="${gap + i * 150}" y="${top + height + 36}" width="10" height="10" fill="${colours[i % colours.length]}"/>` +
      `<text x="${gap + 15 + i * 150}" y="${top + height + 45}">${escapeXml(name)}</text>`
  )
  return `<svg xmlns="http://www.w3.org/2000/svg" width="${width}" height="${top + height + bottom}" font-family="sans-serif" font-size="11">
<rect width="100%" height="100%" fill="#fff"/>
<text x="${gap}" y="22" font-size="14">${escapeXml(title)} (${escapeXml(unit)})</text>
<path d="M${gap / 2} ${top + height}H${width - gap / 2}" stroke="#222"/>
${[...parts, ...legend].join('\n')}
</svg>
`
}
