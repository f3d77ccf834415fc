// blocks_f16: F16 in the kernels' layout (csrc/quant/repack.h): per column 16 rows, 2 quads (of 16 bytes).

fn row_group(columns: u32) -> u32 {
    return columns * 2u;
}

fn load_column(matrix: u32, group: u32, lane: u32, column: u32) -> vec4f {
    return fetch_halves(matrix, group + column * 2u, lane);
}
