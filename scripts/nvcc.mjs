/** CUDA's compiler: its name or path, undefined where it is not there. Its installer does not put it into PATH. */
import { spawnSync } from 'node:child_process'

export const nvcc = ['nvcc', '/usr/local/cuda/bin/nvcc'].find(
  (path) => spawnSync(path, ['--version'], { stdio: 'ignore' }).status === 0
)
