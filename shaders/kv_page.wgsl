// kv_page: where keys and values lie in the pages of one layer's cache (csrc/cpu/attention_simd.h): of each KV head keys in blocks of 16
// positions [head_dim][16], then values [position][value_dim]. For shaders with `rows`, `pages` and the sizes in `params`.

const PAGE = 64u;

/** First element of a KV head's part of the page that a row's position lies in. */
fn page_first(row: u32, head: u32) -> u32 {
    return (pages[rows[row].y + rows[row].x / PAGE] * params.kv_heads + head) * PAGE * (params.head_dim + params.value_dim);
}

fn key_element(first: u32, slot: u32, d: u32) -> u32 {
    return first + (slot / 16u * params.head_dim + d) * 16u + slot % 16u;
}
