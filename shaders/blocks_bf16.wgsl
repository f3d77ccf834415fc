// blocks_bf16: BF16 in the kernels' layout (csrc/quant/repack.h): per column 16 rows, 2 quads (of 16 bytes).

fn row_group(columns: u32) -> u32 {
    return columns * 2u;
}

fn load_column(matrix: u32, group: u32, lane: u32, column: u32) -> vec4f {
    let pair = fetch_pair(matrix, group + column * 2u, lane);
    return bitcast<vec4f>(vec4(pair.x << 16u, pair.x & 0xffff0000u, pair.y << 16u, pair.y & 0xffff0000u));
}
