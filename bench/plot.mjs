// A small SVG writer for the reports: grouped bars with a whisker from the least to the greatest run, and panels of lines.

const escapeXml = (text) =>
  String(text).replace(/[&<>"]/g, (c) => ({ '&': '&amp;', '<': '&lt;', '>': '&gt;', '"': '&quot;' })[c])
const opening = (width, height, fontSize) =>
  `<svg xmlns="http://www.w3.org/2000/svg" width="${width}" height="${height}" viewBox="0 0 ${width} ${height}" font-family="sans-serif" font-size="${fontSize}">`
const colours = ['#1f6f8b', '#c86b3c', '#8a8f3c', '#7a4f8f', '#777777']
const lineColours = ['#555555', '#1f6f8b', '#c86b3c', '#8a8f3c', '#7a4f8f']

const shortNumber = (value) =>
  value >= 10_000 ? `${Number((value / 1000).toPrecision(3))}k` : Number(value.toPrecision(3))

/**
 * Bars grouped by `groups`, one of each of `series`: `{ name, values: ({ median, min, max } | undefined)[] }`.
 * Each group has its own scale, because prefill and decode differ by orders of magnitude, unless they have `oneScale`. Returns the SVG text.
 */
export function groupedBars({
  title,
  unit,
  groups,
  series,
  oneScale = false,
  note = 'medians; lines from the least to the greatest run'
}) {
  const [barWidth, gap, height, top, bottom] = [38, 40, 220, 64, 70]
  const groupWidth = series.length * barWidth + gap
  const width = Math.max(480, groups.length * groupWidth + 2 * gap)
  const parts = []
  const greatestOf = (values) => Math.max(...values.map((value) => value?.max ?? 0), Number.MIN_VALUE)
  for (const [g, group] of groups.entries()) {
    const left = gap + g * groupWidth
    const greatest = greatestOf(series.flatMap(({ values }) => (oneScale ? values : [values[g]])))
    for (const [i, { values }] of series.entries()) {
      const value = values[g]
      if (!value) continue
      const y = (x) => top + height * (1 - x / greatest)
      const x = left + i * barWidth
      const centre = x + barWidth / 2 - 2
      parts.push(
        `<rect x="${x}" y="${y(value.median).toFixed(1)}" width="${barWidth - 4}" height="${(top + height - y(value.median)).toFixed(1)}" fill="${colours[i % colours.length]}"/>`,
        `<path d="M${centre} ${y(value.min).toFixed(1)}V${y(value.max).toFixed(1)}" stroke="#222" stroke-width="1.5"/>`,
        `<text x="${centre}" y="${(y(value.max) - 4).toFixed(1)}" text-anchor="middle">${shortNumber(value.median)}</text>`
      )
    }
    parts.push(
      `<text x="${left + (series.length * barWidth) / 2 - 2}" y="${top + height + 18}" text-anchor="middle">${escapeXml(group)}</text>`
    )
  }
  const legend = series.map(
    ({ name }, i) =>
      `<rect x="${gap + i * 150}" y="${top + height + 36}" width="10" height="10" fill="${colours[i % colours.length]}"/>` +
      `<text x="${gap + 15 + i * 150}" y="${top + height + 45}">${escapeXml(name)}</text>`
  )
  return `${opening(width, top + height + bottom, 11)}
<title>${escapeXml(title)} (${escapeXml(unit)})</title>
<rect width="100%" height="100%" fill="#fff"/>
<text x="${gap}" y="22" font-size="13">${escapeXml(title)}</text>
<text x="${gap}" y="38">${escapeXml(unit)}: ${escapeXml(note)}</text>
<path d="M${gap / 2} ${top + height}H${width - gap / 2}" stroke="#222"/>
${[...parts, ...legend].join('\n')}
</svg>
`
}

const policies = { optimum: 'optimum (Belady)', adaptive: 'adaptive (default)', lru: 'LRU', lfu: 'LFU', arc: 'ARC' }

/** Hit rates by experts in memory, a panel for each trace: `{ title, points: { residency, hitRate: { policy: 0 to 1 } }[] }`. */
export function hitRatePlot(title, traces) {
  const panels = traces.map(({ title, points }) => ({
    title,
    x: points.map(({ residency }) => 100 * residency),
    series: Object.entries(policies).map(([key, name]) => ({
      name,
      values: points.map(({ hitRate }) => 100 * hitRate[key])
    }))
  }))
  return linePanels({ title, panels })
}

/**
 * Panels of lines beside one another, all with the scale 0 to 100: `{ title, x: number[], series: { name, values: number[] }[] }`.
 * Every panel has the same series. Returns the SVG text.
 */
function linePanels({ title, panels }) {
  const [size, gap, top, perRow] = [200, 56, 56, 4]
  const pitch = size + gap
  const columns = Math.min(perRow, panels.length)
  const rows = Math.ceil(panels.length / perRow)
  const [width, height] = [columns * pitch + gap, top + rows * (pitch + 8) + 20]
  const parts = panels.flatMap((panel, p) => {
    const left = gap + (p % perRow) * pitch
    const base = top + Math.floor(p / perRow) * (pitch + 8) + size
    const [x, y] = [
      (value) => (left + (size * value) / 100).toFixed(1),
      (value) => (base - (size * value) / 100).toFixed(1)
    ]
    const grid = [0, 25, 50, 75, 100].flatMap((value) => [
      `<path d="M${left} ${y(value)}h${size}M${x(value)} ${base}v${-size}" stroke="#ddd"/>`,
      `<text x="${left - 6}" y="${Number(y(value)) + 4}" text-anchor="end">${value}</text>`,
      `<text x="${x(value)}" y="${base + 14}" text-anchor="middle">${value}</text>`
    ])
    const lines = panel.series.flatMap(({ values }, i) => {
      const points = values.map((value, j) => `${x(panel.x[j])} ${y(value)}`)
      const colour = lineColours[i % lineColours.length]
      const width = i === 1 ? 2.5 : 1.5
      const dash = i === 0 ? ' stroke-dasharray="4 3"' : ''
      return [
        `<path d="M${points.join('L')}" fill="none" stroke="${colour}" stroke-width="${width}"${dash}/>`,
        ...points.map((point) => {
          const [cx, cy] = point.split(' ')
          return `<circle cx="${cx}" cy="${cy}" r="2" fill="${colour}"/>`
        })
      ]
    })
    return [
      ...grid,
      ...lines,
      `<text x="${left}" y="${base - size - 8}" font-size="12">${escapeXml(panel.title)}</text>`
    ]
  })
  const legend = (panels[0]?.series ?? []).map(
    ({ name }, i) =>
      `<rect x="${gap + i * 130}" y="${height - 20}" width="14" height="4" fill="${lineColours[i % lineColours.length]}"/>` +
      `<text x="${gap + 20 + i * 130}" y="${height - 14}">${escapeXml(name)}</text>`
  )
  const wide = Math.max(width, gap + legend.length * 130)
  return `${opening(wide, height, 10)}
<title>${escapeXml(title)}</title>
<rect width="100%" height="100%" fill="#fff"/>
<text x="${gap}" y="22" font-size="14">${escapeXml(title)}</text>
${[...parts, ...legend].join('\n')}
</svg>
`
}

/**
 * Panels of lines over a growing x, which doubles from mark to mark, each panel with its own scale from 0: `{ title, unit, x: number[],
 * series: { name, values: { median, min, max }[] }[] }`. Returns the SVG text.
 */
export function growthPlot({ title, note, panels }) {
  const [size, gap, top, bottom] = [230, 64, 74, 46]
  const [width, height] = [panels.length * (size + gap) + gap, top + size + bottom]
  const parts = panels.flatMap(({ title, unit, x: marks, series }, p) => {
    const [left, base] = [gap + p * (size + gap), top + size]
    const greatest = 1.1 * Math.max(...series.flatMap(({ values }) => values.map(({ max }) => max)))
    const [from, to] = [Math.log2(marks[0]), Math.log2(marks.at(-1))]
    const x = (mark) => (left + (size * (Math.log2(mark) - from)) / (to - from)).toFixed(1)
    const y = (value) => (base - (size * value) / greatest).toFixed(1)
    const grid = [0, 0.25, 0.5, 0.75, 1].flatMap((share) => [
      `<path d="M${left} ${y(share * greatest)}h${size}" stroke="#ddd"/>`,
      `<text x="${left - 6}" y="${Number(y(share * greatest)) + 4}" text-anchor="end">${shortNumber(share * greatest)}</text>`
    ])
    const lines = series.flatMap(({ name, values }, i) => {
      const colour = colours[i % colours.length]
      const points = values.map(({ median }, j) => `${x(marks[j])} ${y(median)}`)
      return [
        `<path d="M${points.join('L')}" fill="none" stroke="${colour}" stroke-width="2"/>`,
        ...values.map(({ min, max }, j) => `<path d="M${x(marks[j])} ${y(min)}V${y(max)}" stroke="${colour}"/>`),
        `<rect x="${left + 8}" y="${top + 8 + 15 * i}" width="10" height="4" fill="${colour}"/>`,
        `<text x="${left + 23}" y="${top + 14 + 15 * i}">${escapeXml(name)}</text>`
      ]
    })
    return [
      ...grid,
      ...lines,
      ...marks.map((mark) => `<text x="${x(mark)}" y="${base + 14}" text-anchor="middle">${mark}</text>`),
      `<text x="${left}" y="${top - 20}" font-size="12">${escapeXml(title)}</text>`,
      `<text x="${left}" y="${top - 6}">${escapeXml(unit)}</text>`
    ]
  })
  return `${opening(width, height, 10)}
<title>${escapeXml(title)}</title>
<rect width="100%" height="100%" fill="#fff"/>
<text x="${gap}" y="22" font-size="14">${escapeXml(title)}</text>
<text x="${gap}" y="38">${escapeXml(note)}</text>
${parts.join('\n')}
</svg>
`
}
