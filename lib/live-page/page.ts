/** The live page as it is served: one file, and headers under which it can load and reach nothing but this server. */
import { createHash } from 'node:crypto'
import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import { readFailed } from '../errors/index.js'
import { packageRoot } from '../native.js'

export interface LivePage {
  body: Buffer
  headers: Readonly<Record<string, string>>
}

/** `sha256-…` of what is between `<name>` and `</name>`, as a Content-Security-Policy names it. */
function hashOf(text: string, name: 'style' | 'script'): string {
  const inside = text.slice(text.indexOf(`<${name}>`) + name.length + 2, text.indexOf(`</${name}>`))
  return `'sha256-${createHash('sha256').update(inside).digest('base64')}'`
}

function policy(text: string): string {
  return [
    "default-src 'none'",
    `script-src ${hashOf(text, 'script')}`,
    `style-src ${hashOf(text, 'style')}`,
    "connect-src 'self'",
    'img-src data:',
    "base-uri 'none'",
    "form-action 'none'",
    "frame-ancestors 'none'",
    "require-trusted-types-for 'script'"
  ].join('; ')
}

/** FILE_READ_FAILED where the package is not whole. */
export function livePage(): LivePage {
  const path = join(packageRoot(), 'dist', 'live-page.html')
  let body: Buffer
  try {
    body = readFileSync(path)
  } catch (error) {
    throw readFailed(path, error)
  }
  return {
    body,
    headers: {
      'content-type': 'text/html; charset=utf-8',
      'content-security-policy': policy(body.toString('utf8')),
      'cache-control': 'no-cache',
      'cross-origin-opener-policy': 'same-origin',
      'referrer-policy': 'no-referrer',
      'x-content-type-options': 'nosniff'
    }
  }
}
