// The golden cases: requests as scripts/cuda-cases.mjs writes them, results compared with the frozen bits.
#include <cmath>
#include <map>

#include "check.h"
#include "core/sha256.h"
#include "cuda/calls.h"
#include "quant/repack.h"

namespace tmoe {
namespace check {

namespace {

struct Value {
    double number = 0;
    std::string text;
    std::vector<uint8_t> bytes;
    size_t element = 1;
};

/** One case: its request by name, the frozen results with "=" before theirs. */
class Case {
  public:
    std::string kernel, name;
    std::map<std::string, Value> fields;

    std::string where(const char* what = "") const { return kernel + ", " + name + (*what ? std::string(": ") + what : ""); }
    bool has(const std::string& key) const { return fields.count(key) > 0; }
    double number(const std::string& key, double otherwise = 0) const { return has(key) ? fields.at(key).number : otherwise; }
    size_t size(const std::string& key, double otherwise = 0) const { return static_cast<size_t>(number(key, otherwise)); }
    std::string text(const std::string& key, const char* otherwise = "") const { return has(key) ? fields.at(key).text : otherwise; }
    template <class T> std::vector<T> array(const std::string& key) const {
        std::vector<T> out;
        if (!has(key)) return out;
        const std::vector<uint8_t>& bytes = fields.at(key).bytes;
        out.resize(bytes.size() / sizeof(T));
        if (!out.empty()) memcpy(out.data(), bytes.data(), out.size() * sizeof(T));
        return out;
    }
    /** Compares with the frozen result. */
    template <class T> void expect(const char* key, const std::vector<T>& got) const {
        const Value& wanted = fields.at(std::string("=") + key);
        if (!wanted.text.empty()) {
            if (hex(sha256(got.data(), got.size() * sizeof(T))) == wanted.text) return pass();
            return fail(where(key), "not the frozen bits (SHA-256)");
        }
        const std::vector<T> frozen = array<T>(std::string("=") + key);
        if (frozen.size() != got.size()) return fail(where(key), format("%zu elements, not %zu", got.size(), frozen.size()));
        equal(where(key), got, frozen);
    }
};

DType type_of(const std::string& name) {
    for (const DTypeInfo& info : kDTypes) {
        if (name == info.name) return info.type;
    }
    return DType::F32;
}

struct Matrix {
    RawMatrix raw;
    std::vector<uint8_t> data, layout;
    std::vector<float> bias;
    ExpertStack stack;
};
void read_matrix(const Case& c, const std::string& key, size_t experts, Matrix& m) {
    m.data = c.array<uint8_t>(key + ".data");
    m.raw = {type_of(c.text(key + ".type")), c.size(key + ".rows"), c.size(key + ".columns"), m.data.data()};
    m.layout = packed(m.raw.type, m.data, m.raw.rows, m.raw.columns, experts);
    m.bias = c.array<float>("biases." + key);
    m.stack = {{m.raw.type, m.raw.rows, m.raw.columns, m.layout.data(), m.bias.empty() ? nullptr : m.bias.data()}, packed_bytes(m.raw.type, m.raw.rows, m.raw.columns)};
}

void run_route(cuda::Workspace& w, const Case& c) {
    const auto states = c.array<float>("states");
    const auto router = c.array<int32_t>("router"), tiers = c.array<int32_t>("hser.tierRouter"), groups = c.array<int32_t>("hser.groupRouter");
    const auto positions = c.array<uint32_t>("positions"), seed = c.array<uint32_t>("seed");
    const auto tier_groups = c.array<uint32_t>("hser.tierGroups"), group_experts = c.array<uint32_t>("hser.groupExperts");
    const auto enabled = c.array<uint8_t>("enabled");
    RouteArgs a = {};
    a.states = states.data();
    a.tokens = positions.size();
    const size_t width = states.size() / a.tokens;
    a.router = {router.data(), static_cast<int>(c.number("routerExponent")), c.size("experts"), width};
    a.k = c.size("k");
    const std::string form = c.text("form", "softmax_topk");
    a.form = form == "hser" ? RouteForm::Hser : form == "sigmoid" ? RouteForm::Sigmoid : form == "topk_softmax" ? RouteForm::TopkSoftmax : RouteForm::SoftmaxTopk;
    a.normalise = c.number("normalise") != 0;
    a.layer = static_cast<uint32_t>(c.number("layer"));
    memcpy(a.seed, seed.data(), sizeof a.seed);
    a.positions = positions.data();
    a.enabled = enabled.empty() ? nullptr : enabled.data();
    const auto bias = c.array<int32_t>("bias");
    const auto selection_bias = c.array<int64_t>("selectionBias");
    a.bias = bias.empty() ? nullptr : bias.data();
    a.bias_exponent = static_cast<int>(c.number("biasExponent"));
    a.selection_bias = selection_bias.empty() ? nullptr : selection_bias.data();
    a.scale = static_cast<float>(c.number("scale", 1));
    if (c.has("groups.count")) {
        a.groups = {static_cast<uint32_t>(c.size("groups.count")), static_cast<uint32_t>(c.size("groups.used")), c.text("groups.score") == "top2" ? GroupScore::Top2 : GroupScore::Max};
    }
    HserRouting h = {};
    if (a.form == RouteForm::Hser) {
        h.tiers = {tiers.data(), static_cast<int>(c.number("hser.tierRouterExponent")), tier_groups.size() - 1, width};
        h.groups = {groups.data(), static_cast<int>(c.number("hser.groupRouterExponent")), group_experts.size() - 1, width};
        h.tier_groups = tier_groups.data();
        h.group_experts = group_experts.data();
        h.k_tier = c.size("hser.kTier");
        h.k_group = c.size("hser.kGroup");
        h.k_expert = c.size("hser.kExpert");
        h.bound = 256;
        a.hser = &h;
    }
    std::vector<int32_t> ids(a.tokens * a.k);
    std::vector<float> weights(a.tokens * a.k);
    std::vector<int64_t> scores(a.tokens * route_rows(a));
    a.ids = ids.data();
    a.weights = weights.data();
    a.scores = scores.data();
    if (!sound(c.where(), cuda::route(w, a))) return;
    c.expect("ids", ids);
    c.expect("weights", weights);
    c.expect("scores", scores);
}

void run_dispatch(cuda::Workspace& w, const Case& c) {
    const auto ids = c.array<int32_t>("ids");
    const size_t k = c.size("k"), experts = c.size("experts");
    std::vector<uint32_t> offsets(experts + 1), slots(ids.size()), rows(ids.size());
    if (!sound(c.where(), cuda::dispatch(w, {ids.data(), ids.size() / k, k, experts, offsets.data(), slots.data(), rows.data()}))) return;
    c.expect("offsets", offsets);
    c.expect("slots", slots);
    c.expect("rows", rows);
}

void run_expert_matmul(cuda::Workspace& w, const Case& c) {
    const auto x = c.array<float>("x");
    const auto offsets = c.array<uint32_t>("offsets"), slots = c.array<uint32_t>("slots");
    const size_t experts = offsets.size() - 1;
    Matrix gate, up, down;
    read_matrix(c, "gate", experts, gate);
    read_matrix(c, "up", experts, up);
    read_matrix(c, "down", experts, down);
    const size_t k = c.size("k"), width = gate.raw.columns;
    const auto activation = c.text("activation") == "clamped_swiglu" ? ExpertActivation::ClampedSwiglu : ExpertActivation::Silu;
    for (const auto form : {cuda::MatmulForm::Auto, cuda::MatmulForm::Rows, cuda::MatmulForm::Tiles}) {
        std::vector<float> out(slots.size() * width);
        const ExpertMatmulArgs a = {x.data(), x.size() / width, width, k, experts, gate.stack, up.stack, down.stack, offsets.data(), slots.data(), out.data(), activation};
        if (sound(c.where(), cuda::expert_matmul(w, a, form))) c.expect("out", out);
    }
}

void run_combine(cuda::Workspace& w, const Case& c) {
    const auto values = c.array<float>("values"), weights = c.array<float>("weights");
    const auto ids = c.array<int32_t>("ids");
    const auto rows = c.array<uint32_t>("rows");
    auto out = c.array<float>("out");
    const size_t k = c.size("k");
    const CombineArgs a = {values.data(), ids.data(), weights.data(), rows.data(), ids.size() / k, k, c.size("width"), c.size("experts"), c.number("add") != 0, out.data()};
    if (sound(c.where(), cuda::combine(w, a))) c.expect("out", out);
}

void run_all_to_all(cuda::Workspace& w, const Case& c) {
    const bool packs = c.kernel == "allToAllPack";
    const auto from = c.array<float>(packs ? "x" : "packed");
    const auto offsets = c.array<uint32_t>("offsets"), slots = c.array<uint32_t>("slots");
    const size_t k = c.size("k"), width = c.size("width");
    std::vector<float> out(slots.size() * width);
    std::vector<uint32_t> rank_rows(packs ? c.size("ranks") : 1);
    const AllToAllArgs a = {offsets.data(), slots.data(), slots.size(), k, width, offsets.size() - 1, rank_rows.size(), slots.size() / k, from.data(), out.data(), rank_rows.data()};
    if (!sound(c.where(), packs ? cuda::all_to_all_pack(w, a) : cuda::all_to_all_unpack(w, a))) return;
    c.expect("out", out);
    if (packs) c.expect("rankRows", rank_rows);
}

void run_rms_norm(cuda::Workspace& w, const Case& c) {
    const auto x = c.array<float>("x"), weight = c.array<float>("weight");
    std::vector<float> out(x.size());
    if (sound(c.where(), cuda::rms_norm(w, {x.data(), weight.data(), x.size() / weight.size(), weight.size(), static_cast<float>(c.number("epsilon")), out.data()}))) c.expect("out", out);
}

void run_rope(cuda::Workspace& w, const Case& c) {
    auto x = c.array<float>("x");
    const auto positions = c.array<uint32_t>("positions");
    RopeScaling scaling;
    scaling.factor = c.number("scaling.factor", 1);
    scaling.magnitude = c.number("scaling.magnitude", 1);
    if (c.has("scaling.keep.by")) {
        scaling.keep = c.text("scaling.keep.by") == "pair" ? RopeKeep::Pair : RopeKeep::Turns;
        scaling.none = c.number("scaling.keep.none");
        scaling.all = c.number("scaling.keep.all");
        scaling.most = c.number("scaling.keep.most");
        scaling.original_context = c.number("scaling.keep.originalContext");
    }
    const auto divisors = c.array<float>("divisors");
    RopeTable table(c.number("base"), c.size("rotaryDim"), scaling);
    if (!divisors.empty()) table.divide(divisors.data());
    const RopePairs pairs = c.text("pairs") == "neox" ? RopePairs::Neox : RopePairs::Interleaved;
    if (sound(c.where(), cuda::rope(w, {x.data(), positions.data(), positions.size(), c.size("heads"), c.size("headDim"), table, pairs}))) c.expect("out", x);
}

void run_attention(cuda::Workspace& w, const Case& c) {
    const auto q = c.array<float>("q"), k = c.array<float>("k"), v = c.array<float>("v");
    auto cache = c.array<uint8_t>("cache");
    AttentionArgs a = {};
    a.q = q.data();
    a.k = k.data();
    a.v = v.data();
    a.heads = c.size("heads");
    a.kv_heads = c.size("kvHeads");
    a.head_dim = c.size("headDim");
    a.value_dim = c.size("valueDim");
    a.scale = c.has("scale") ? static_cast<float>(c.number("scale")) : static_cast<float>(1.0 / std::sqrt(static_cast<double>(a.head_dim)));
    a.type = c.text("kvType") == "f16" ? KvType::F16 : KvType::F32;
    const size_t tokens = q.size() / (a.heads * a.head_dim), start = c.size("start"), page = kv_layer_bytes(a.type, a.kv_heads, a.head_dim, a.value_dim);
    std::vector<uint8_t*> pages;
    for (size_t at = 0; at < cache.size(); at += page) pages.push_back(cache.data() + at);
    std::vector<float> out(tokens * a.heads * a.value_dim);
    a.out = out.data();
    const AttentionRun run = {0, tokens, start, pages.data()};
    a.runs = &run;
    a.run_count = 1;
    const auto sinks = c.array<float>("sinks");
    a.window = c.size("window");
    a.sinks = sinks.empty() ? nullptr : sinks.data();
    if (!sound(c.where(), cuda::attention(w, a))) return;
    c.expect("out", out);
    c.expect("cache", cache);
}

void run_embed(cuda::Workspace& w, const Case& c) {
    const auto ids = c.array<int32_t>("ids");
    Matrix table;
    read_matrix(c, "table", 1, table);
    std::vector<float> out(ids.size() * table.raw.columns);
    if (sound(c.where(), cuda::embed(w, {table.raw, ids.data(), ids.size(), out.data()}))) c.expect("out", out);
}

void run_logits(cuda::Workspace& w, const Case& c) {
    const auto states = c.array<float>("states");
    Matrix weight;
    read_matrix(c, "weight", 1, weight);
    const size_t tokens = states.size() / weight.raw.columns;
    for (const auto form : {cuda::MatmulForm::Auto, cuda::MatmulForm::Rows, cuda::MatmulForm::Tiles}) {
        if (form == cuda::MatmulForm::Tiles && !is_quantised(weight.raw.type)) continue;
        std::vector<float> out(tokens * weight.raw.rows);
        if (sound(c.where(), cuda::matmul(w, weight.stack.shape, states.data(), tokens, out.data(), form))) c.expect("out", out);
    }
}

void run_quantize(cuda::Workspace& w, const Case& c) {
    const bool encodes = c.kernel == "quantize";
    const DType type = type_of(c.text("type"));
    const size_t columns = c.size("columns");
    if (encodes) {
        const auto x = c.array<float>("x");
        std::vector<uint8_t> out(x.size() / columns * row_bytes(type, columns));
        if (sound(c.where(), cuda::quantize(w, type, x.data(), x.size() / columns, columns, out.data()))) c.expect("out", out);
        return;
    }
    const auto data = c.array<uint8_t>("data");
    const size_t rows = data.size() / row_bytes(type, columns);
    std::vector<float> out(rows * columns);
    if (sound(c.where(), cuda::dequantize(w, {type, rows, columns, data.data()}, out.data()))) c.expect("out", out);
}

void run_sample(cuda::Workspace& w, const Case& c) {
    const auto logits = c.array<float>("logits");
    SamplingParams p;
    p.temperature = static_cast<float>(c.number("temperature"));
    p.top_k = static_cast<int32_t>(c.number("topK"));
    p.top_p = static_cast<float>(c.number("topP", 1));
    p.min_p = static_cast<float>(c.number("minP"));
    p.repetition_penalty = static_cast<float>(c.number("repetitionPenalty", 1));
    p.seed = c.size("seed");
    p.top_logprobs = static_cast<int32_t>(c.number("topLogprobs", -1));
    p.recent = c.array<int32_t>("recent");
    p.banned = c.array<int32_t>("banned");
    p.allowed = c.array<uint32_t>("allowed");
    Sampled out;
    if (!sound(c.where(), cuda::sample(w, logits.data(), logits.size(), p, c.size("position"), out))) return;
    if (out.token == static_cast<int32_t>(c.number("=token"))) {
        pass();
    } else {
        fail(c.where(), format("token %d, not %d", out.token, static_cast<int32_t>(c.number("=token"))));
    }
    if (!c.has("=logprob")) return;
    c.expect("logprob", std::vector<float>{out.logprob});
    c.expect("top.ids", out.top_ids);
    c.expect("top.logprobs", out.top_logprobs);
}

const std::map<std::string, void (*)(cuda::Workspace&, const Case&)> kRunners = {
    {"route", run_route},         {"dispatch", run_dispatch},           {"expertMatmul", run_expert_matmul}, {"combine", run_combine}, {"allToAllPack", run_all_to_all},
    {"allToAllUnpack", run_all_to_all}, {"rmsNorm", run_rms_norm},      {"rope", run_rope},                  {"attention", run_attention}, {"embed", run_embed},
    {"logits", run_logits},       {"sample", run_sample},               {"quantize", run_quantize},          {"dequantize", run_quantize},
};

/** Reads the file of cases field by field; `sound` is false after a step beyond its end. */
class Reader {
  public:
    explicit Reader(std::vector<uint8_t> bytes) : bytes_(std::move(bytes)) {}
    bool sound = true;
    bool at_end() const { return at_ == bytes_.size(); }
    std::vector<uint8_t> take(size_t n) {
        sound = sound && n <= bytes_.size() - at_;
        if (!sound) return std::vector<uint8_t>(n < 8 ? 8 : 0);
        std::vector<uint8_t> out(bytes_.begin() + static_cast<ptrdiff_t>(at_), bytes_.begin() + static_cast<ptrdiff_t>(at_ + n));
        at_ += n;
        return out;
    }
    uint32_t u32() {
        uint32_t n = 0;
        memcpy(&n, take(4).data(), 4);
        return n;
    }
    std::string text() {
        const std::vector<uint8_t> bytes = take(u32());
        return std::string(bytes.begin(), bytes.end());
    }
    Value value() {
        Value v;
        const uint32_t kind = u32();
        if (kind == 0) {
            const std::vector<uint8_t> bytes = take(8);
            if (sound) memcpy(&v.number, bytes.data(), 8);
        } else if (kind == 1) {
            v.text = text();
        } else {
            v.element = u32();
            v.bytes = take(u32());
        }
        return v;
    }

  private:
    std::vector<uint8_t> bytes_;
    size_t at_ = 0;
};

}  // namespace

bool run_golden(cuda::Workspace& w, const char* path) {
    FILE* file = fopen(path, "rb");
    if (!file) {
        fprintf(stderr, "the file of cases '%s' cannot be opened; node scripts/cuda-cases.mjs writes it\n", path);
        return false;
    }
    std::vector<uint8_t> bytes;
    uint8_t part[4096];
    for (size_t n; (n = fread(part, 1, sizeof part, file)) > 0;) bytes.insert(bytes.end(), part, part + n);
    fclose(file);
    Reader reader(std::move(bytes));
    const std::vector<uint8_t> magic = reader.take(8);
    size_t count = 0;
    bool known = memcmp(magic.data(), "TMOECASE", 8) == 0;
    while (known && reader.sound && !reader.at_end()) {
        Case c;
        c.kernel = reader.text();
        c.name = reader.text();
        for (uint32_t left = reader.u32(); left > 0 && reader.sound; left--) {
            const std::string name = reader.text();
            c.fields[name] = reader.value();
        }
        const auto runner = kRunners.find(c.kernel);
        if (runner == kRunners.end()) {
            fail(c.where(), "no kernel of this name");
            continue;
        }
        runner->second(w, c);
        count++;
    }
    if (known && reader.sound && count > 0) return true;
    fprintf(stderr, "'%s' is no file of cases\n", path);
    return false;
}

}  // namespace check
}  // namespace tmoe
