/** A real web server for these tests: nginx as an unprivileged child, on a free port of this machine, with all its files in one folder. */
import { spawn, spawnSync } from 'node:child_process'
import { chmodSync, chownSync, existsSync, mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { createServer } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'

const binary = ['/usr/sbin/nginx', '/usr/local/sbin/nginx', '/opt/homebrew/bin/nginx'].find((path) => existsSync(path))
/** Why tests that need it are skipped; false where nginx is there, and in CI, where its absence is a failure. */
export const nginxMissing: string | false =
  binary || process.env.CI ? false : 'nginx is not installed (Debian: apt-get install nginx-light)'

const nobody = 65534
const asRoot = process.getuid?.() === 0

export interface Request {
  status: number
  /** Of the answer's body. */
  bytes: number
  range: string
  path: string
}

export interface Nginx {
  port: number
  url: string
  /** Served folder. */
  files: string
  /** Every request since the last call, in order. */
  requests(): Request[]
  stop(): Promise<void>
  start(): Promise<void>
}

async function freePort(): Promise<number> {
  const server = createServer()
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve))
  const { port } = server.address() as { port: number }
  await new Promise((resolve) => server.close(resolve))
  return port
}

const configuration = (folder: string, port: number) => `
daemon off;
pid ${folder}/nginx.pid;
worker_processes 1;
events { worker_connections 256; }
http {
  log_format line '$status $body_bytes_sent "$http_range" $request_uri';
  access_log ${folder}/access.log line;
  client_body_temp_path ${folder}/body; proxy_temp_path ${folder}/proxy; fastcgi_temp_path ${folder}/fastcgi;
  uwsgi_temp_path ${folder}/uwsgi; scgi_temp_path ${folder}/scgi;
  lingering_close off;
  server {
    listen 127.0.0.1:${port};
    root ${folder}/files;
    location /forbidden/ { deny all; }
    location /broken/ { return 500; }
    location /busy/ { add_header Retry-After 1 always; return 503; }
    location /whole/ { alias ${folder}/files/; max_ranges 0; }
    location /moved/ { rewrite ^/moved/(.*)$ /$1?moved redirect; }
    location /circle/ { return 302 /circle/; }
    location /locked/ { if ($http_authorization != "Bearer 1234") { return 401; } alias ${folder}/files/; }
    location /signed/ { if ($arg_signature != "5678") { return 403; } alias ${folder}/files/; }
  }
}
`

/** Starts nginx over an empty folder of files. */
export async function startNginx(): Promise<Nginx> {
  if (!binary) throw new Error('nginx is not installed')
  const folder = mkdtempSync(join(tmpdir(), 'tiered-moe-nginx-'))
  const files = join(folder, 'files')
  mkdirSync(files)
  chmodSync(folder, 0o755)
  if (asRoot) for (const path of [folder, files]) chownSync(path, nobody, nobody)
  const port = await freePort()
  const config = join(folder, 'nginx.conf')
  writeFileSync(config, configuration(folder, port))
  const log = join(folder, 'access.log')
  let child: ReturnType<typeof spawn> | undefined
  let seen = 0

  const start = async (): Promise<void> => {
    const identity = asRoot ? { uid: nobody, gid: nobody } : {}
    const args = ['-p', folder, '-c', config, '-e', join(folder, 'error.log')]
    const started = spawn(binary, args, { stdio: ['ignore', 'ignore', 'pipe'], ...identity })
    let told = ''
    started.stderr?.on('data', (text) => {
      told += text
    })
    child = started
    for (;;) {
      if (started.exitCode !== null) throw new Error(`nginx ended: ${told}`)
      const answer = await fetch(`http://127.0.0.1:${port}/none`).catch(() => undefined)
      if (answer?.status === 404) break
      await sleep(10)
    }
    nginx.requests()
  }
  const stop = async (): Promise<void> => {
    if (!child || child.exitCode !== null) return
    const ended = new Promise((resolve) => child?.once('exit', resolve))
    child.kill('SIGTERM')
    await ended
  }
  const nginx: Nginx = {
    port,
    url: `http://127.0.0.1:${port}`,
    files,
    start,
    stop: async () => {
      await stop()
    },
    requests() {
      const lines = existsSync(log) ? readFileSync(log, 'utf8').split('\n').filter(Boolean) : []
      const fresh = lines.slice(seen)
      seen = lines.length
      return fresh.map((line) => {
        const [, status, bytes, range, path] = /^(\d+) (\d+) "([^"]*)" (.*)$/.exec(line) as unknown as string[]
        return { status: Number(status), bytes: Number(bytes), range: range!, path: path! }
      })
    }
  }
  process.once('exit', () => {
    child?.kill('SIGKILL')
    rmSync(folder, { recursive: true, force: true })
  })
  await start()
  return nginx
}

/** The version that runs, for the test's comment. */
export const nginxVersion = (): string =>
  binary ? spawnSync(binary, ['-v'], { encoding: 'utf8' }).stderr.trim() : 'none'
