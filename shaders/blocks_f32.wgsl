// blocks_f32: F32 in the kernels' layout (csrc/quant/repack.h): per column 16 rows, 4 quads (of 16 bytes).

fn row_group(columns: u32) -> u32 {
    return columns * 4u;
}

fn load_column(matrix: u32, group: u32, lane: u32, column: u32) -> vec4f {
    return bitcast<vec4f>(fetch(matrix, group + column * 4u + lane));
}
