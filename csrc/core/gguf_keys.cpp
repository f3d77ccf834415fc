#include "core/gguf_keys.h"

namespace tmoe {

namespace {

const char* const kTypeNames[] = {"u8", "i8", "u16", "i16", "u32", "i32", "f32", "bool", "string", "array", "u64", "i64", "f64"};

enum class Kind { Count, Real, Flag, Text, Texts, Reals, Integers };

struct KnownKey {
    const char* suffix;  // `.x` ends the key of any architecture; otherwise the whole key
    Kind kind;
};

constexpr KnownKey kKnown[] = {
    {"general.architecture", Kind::Text},
    {"general.alignment", Kind::Count},
    {"general.file_type", Kind::Count},
    {"general.quantization_version", Kind::Count},
    {".context_length", Kind::Count},
    {".embedding_length", Kind::Count},
    {".block_count", Kind::Count},
    {".feed_forward_length", Kind::Count},
    {".expert_feed_forward_length", Kind::Count},
    {".expert_count", Kind::Count},
    {".expert_used_count", Kind::Count},
    {".vocab_size", Kind::Count},
    {".attention.head_count", Kind::Count},
    {".attention.head_count_kv", Kind::Count},
    {".attention.key_length", Kind::Count},
    {".attention.value_length", Kind::Count},
    {".attention.layer_norm_rms_epsilon", Kind::Real},
    {".rope.dimension_count", Kind::Count},
    {".rope.freq_base", Kind::Real},
    {"tokenizer.ggml.model", Kind::Text},
    {"tokenizer.ggml.pre", Kind::Text},
    {"tokenizer.ggml.tokens", Kind::Texts},
    {"tokenizer.ggml.merges", Kind::Texts},
    {"tokenizer.ggml.scores", Kind::Reals},
    {"tokenizer.ggml.token_type", Kind::Integers},
    {".bos_token_id", Kind::Count},
    {".eos_token_id", Kind::Count},
    {".eot_token_id", Kind::Count},
    {".unknown_token_id", Kind::Count},
    {".padding_token_id", Kind::Count},
    {".add_bos_token", Kind::Flag},
    {".add_eos_token", Kind::Flag},
    {".add_space_prefix", Kind::Flag},
    {"tokenizer.chat_template", Kind::Text},
};

bool matches(const std::string& key, const std::string& suffix) {
    if (suffix[0] != '.') return key == suffix;
    return key.size() > suffix.size() && key.compare(key.size() - suffix.size(), suffix.size(), suffix) == 0;
}

bool right(const GgufValue& value, Kind kind) {
    const bool array = value.type == GgufValue::ARRAY;
    switch (kind) {
        case Kind::Count:
            // Models whose layers differ have one count per layer, written as i32 or u32.
            if (array) return value.element == GgufValue::U32 || value.element == GgufValue::I32 || value.element == GgufValue::BOOL;
            return value.type == GgufValue::U32 || value.type == GgufValue::U64;
        case Kind::Real:
            return value.type == GgufValue::F32 || value.type == GgufValue::F64;
        case Kind::Flag:
            return value.type == GgufValue::BOOL;
        case Kind::Text:
            return value.type == GgufValue::STRING;
        case Kind::Texts:
            return array && value.element == GgufValue::STRING;
        case Kind::Reals:
            return array && value.element == GgufValue::F32;
        case Kind::Integers:
            return array && value.element == GgufValue::I32;
    }
    return true;
}

const char* expected(Kind kind) {
    switch (kind) {
        case Kind::Count:
            return "u32";
        case Kind::Real:
            return "f32";
        case Kind::Flag:
            return "bool";
        case Kind::Text:
            return "string";
        case Kind::Texts:
            return "array of string";
        case Kind::Reals:
            return "array of f32";
        case Kind::Integers:
            return "array of i32";
    }
    return "";
}

}  // namespace

std::string wrong_type(const GgufEntry& entry) {
    for (const KnownKey& known : kKnown) {
        if (!matches(entry.key, known.suffix) || right(entry.value, known.kind)) continue;
        const bool array = entry.value.type == GgufValue::ARRAY;
        return std::string("is ") + (array ? "an array of " : "") + kTypeNames[array ? entry.value.element : entry.value.type] +
               " where the format has " + expected(known.kind);
    }
    return {};
}

}  // namespace tmoe
