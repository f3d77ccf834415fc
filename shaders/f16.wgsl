// f16 from f32, round to nearest even, as csrc/quant/blocks.h has it: pack2x16float may round either way. The other way is exact
// (unpack2x16float; an adapter may read denormals as zero).

fn f16_bits(value: f32) -> u32 {
    let bits = bitcast<u32>(value);
    let sign = (bits >> 16u) & 0x8000u;
    let magnitude = bits & 0x7fffffffu;
    if (magnitude > 0x7f800000u) {
        return sign | 0x7e00u | ((magnitude >> 13u) & 0x3ffu);
    }
    if (magnitude >= 0x477ff000u) {    // 65520 and above
        return sign | 0x7c00u;
    }
    if (magnitude >= 0x38800000u) {    // normal in f16
        return sign | ((magnitude + 0xfffu + ((magnitude >> 13u) & 1u) - 0x38000000u) >> 13u);
    }
    if (magnitude < 0x33000000u) {     // below half of the smallest denormal
        return sign;
    }
    let shift = 126u - (magnitude >> 23u);
    let mantissa = (magnitude & 0x7fffffu) | 0x800000u;
    let kept = mantissa >> shift;
    let rest = mantissa & ((1u << shift) - 1u);
    let half = 1u << (shift - 1u);
    return sign | (kept + select(0u, 1u, rest > half || (rest == half && (kept & 1u) == 1u)));
}
