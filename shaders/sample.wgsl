// sample: the next token of each row of logits, and log probabilities, as csrc/core/sampling.h has it for at most 256 candidates.
//
// Bindings   1 logits [rows][vocab], bits of f32; penalty and bans are written into them
//            2 requests [rows] (struct Request)   3 lists of (token id, room for its logit), ids differ within a list
//            4 results [rows][64 words]: token (0xffffffff: every one is banned), lowest logit that is not finite (0xffffffff: all are), bits of
//              the largest logit, of the sum of exp(logit - largest), of the token's logit; from word 8 on (id, bits of logit) of the most likely
// Dispatch   one workgroup of 256 for each row
// Numerics   logits are compared as integers: larger first, then the smaller id. The candidates are selected exactly (8 bits of (logit, id) at
//            a time), so that greedy tokens, top-k and alternatives are the CPU's for the same logits. Probabilities are summed in their order.

struct Params {
    rows: u32,
    vocab: u32,
}

struct Request {
    candidates: u32,     // 0: only look for what is not finite; 1: the largest; else draw from so many
    uniform_draw: f32,   // in [0, 1), from (seed, position)
    temperature: f32,
    top_p: f32,
    min_p: f32,
    penalty: f32,
    first: u32,          // in `lists`: tokens that are penalised, then those that are banned
    penalised: u32,
    banned: u32,
    alternatives: u32,   // 0: no log probability; 1 + n: with n alternatives
}

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read_write> logits: array<u32>;
@group(0) @binding(2) var<storage, read> requests: array<Request>;
@group(0) @binding(3) var<storage, read_write> lists: array<vec2<u32>>;
@group(0) @binding(4) var<storage, read_write> results: array<u32>;

#include "math.wgsl"

const LANES = 256u;
const NONE = 0xffffffffu;
const BANNED = 0xff800000u;      // bits of -infinity
const BANNED_KEY = 0x007fffffu;

/** What lane 0 has decided for all. */
struct Decision {
    key: u32,          // of the last candidate, as far as it is known, and of its id
    id_key: u32,
    missing: u32,      // candidates to be found among those with these bits
    done: u32,
}

var<workgroup> histogram: array<atomic<u32>, 256>;
var<workgroup> keys: array<u32, LANES>;
var<workgroup> ids: array<u32, LANES>;
var<workgroup> shares: array<f32, LANES>;
var<workgroup> taken: atomic<u32>;
var<workgroup> bad: atomic<u32>;
var<workgroup> decision: Decision;

/** Larger floats have larger keys; both zeros have one. */
fn key_of(bits: u32) -> u32 {
    if ((bits & 0x7fffffffu) == 0u) {
        return 0x80000000u;
    }
    return select(bits | 0x80000000u, ~bits, bits >> 31u == 1u);
}
fn value_of(key: u32) -> f32 {
    return bitcast<f32>(select(~key, key & 0x7fffffffu, key >> 31u == 1u));
}
fn better(key: u32, id: u32, other_key: u32, other_id: u32) -> bool {
    return key > other_key || (key == other_key && id < other_id);
}

/** The best token into keys[0] and ids[0]; what is not finite (and was not banned here) into `bad`. */
fn scan(first: u32, lane: u32, plain: bool) {
    var key = 0u;
    var id = NONE;
    for (var i = lane; i < params.vocab; i += LANES) {
        let bits = logits[first + i];
        if (plain && (bits & 0x7f800000u) == 0x7f800000u) {
            atomicMin(&bad, i);
        }
        let own = key_of(bits);
        if (better(own, i, key, id)) {
            key = own;
            id = i;
        }
    }
    keys[lane] = key;
    ids[lane] = id;
    workgroupBarrier();
    for (var width = LANES / 2u; width > 0u; width /= 2u) {
        if (lane < width && better(keys[lane + width], ids[lane + width], keys[lane], ids[lane])) {
            keys[lane] = keys[lane + width];
            ids[lane] = ids[lane + width];
        }
        workgroupBarrier();
    }
}

/** Sum of exp(logit - largest) into shares[0]. */
fn sum_exp(first: u32, lane: u32, largest: f32) {
    var sum = 0.0;
    for (var i = lane; i < params.vocab; i += LANES) {
        sum += exp_of(bitcast<f32>(logits[first + i]) - largest);
    }
    shares[lane] = sum;
    workgroupBarrier();
    for (var width = LANES / 2u; width > 0u; width /= 2u) {
        if (lane < width) {
            shares[lane] += shares[lane + width];
        }
        workgroupBarrier();
    }
}

/** The `count` best tokens, best first, into keys and ids: 1 <= count <= min(256, vocab). */
fn choose(first: u32, lane: u32, count: u32) {
    var last = Decision(0u, 0u, count, 0u);
    for (var digit = 0u; digit < 8u; digit++) {    // four of the logit, then four of the id
        let shift = 24u - 8u * (digit % 4u);
        let known = 0xffffff00u << shift;    // bits of the digits before
        atomicStore(&histogram[lane], 0u);
        workgroupBarrier();
        for (var i = lane; i < params.vocab; i += LANES) {
            let key = key_of(logits[first + i]);
            if (digit < 4u) {
                if (((key ^ last.key) & known) == 0u) {
                    atomicAdd(&histogram[(key >> shift) & 255u], 1u);
                }
            } else if (key == last.key && ((~i ^ last.id_key) & known) == 0u) {
                atomicAdd(&histogram[(~i >> shift) & 255u], 1u);
            }
        }
        workgroupBarrier();
        if (lane == 0u) {
            var bin = 255u;
            var inside = atomicLoad(&histogram[bin]);
            var missing = last.missing;
            while (inside < missing) {
                missing -= inside;
                bin--;
                inside = atomicLoad(&histogram[bin]);
            }
            let bits = bin << shift;
            decision = Decision(last.key | select(0u, bits, digit < 4u), last.id_key | select(bits, 0u, digit < 4u), missing,
                                select(0u, 1u, inside == missing));
            atomicStore(&taken, 0u);
        }
        last = workgroupUniformLoad(&decision);
        if (last.done == 1u) {
            break;
        }
    }
    for (var i = lane; i < params.vocab; i += LANES) {
        let key = key_of(logits[first + i]);
        // digits that were not needed are zeros: what has the known bits is not below
        if (key > last.key || (key == last.key && ~i >= last.id_key)) {
            let place = atomicAdd(&taken, 1u);
            keys[place] = key;
            ids[place] = i;
        }
    }
    workgroupBarrier();
    let key = keys[lane];
    let id = ids[lane];
    var rank = 0u;
    for (var i = 0u; i < count; i++) {
        rank += select(0u, 1u, better(keys[i], ids[i], key, id));
    }
    workgroupBarrier();
    if (lane < count) {
        keys[rank] = key;
        ids[rank] = id;
    }
    workgroupBarrier();
}

/** The token drawn from the candidates in keys and ids, whose weights are in `shares`. */
fn draw(request: Request, count: u32) -> u32 {
    var total = 0.0;
    for (var i = 0u; i < count; i++) {
        total += shares[i];
    }
    var kept = count;
    var sum = 0.0;
    if (request.top_p < 1.0) {
        kept = 0u;
        while (kept < count && sum < request.top_p) {
            sum += shares[kept] / total;
            kept++;
        }
        kept = max(kept, 1u);
    }
    if (request.min_p > 0.0) {
        let least = request.min_p * (shares[0] / total);
        while (kept > 1u && shares[kept - 1u] / total < least) {
            kept--;
        }
    }
    sum = 0.0;
    for (var i = 0u; i < kept; i++) {
        sum += shares[i] / total;
    }
    let goal = request.uniform_draw * sum;
    sum = 0.0;
    var chosen = 0u;
    while (chosen + 1u < kept) {
        sum += shares[chosen] / total;
        if (goal < sum) {
            break;
        }
        chosen++;
    }
    return ids[chosen];
}

@compute @workgroup_size(LANES)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let row = group.x;
    let first = row * params.vocab;
    let result = 64u * row;
    let request = requests[row];
    if (lane == 0u) {
        atomicStore(&bad, NONE);
    }
    workgroupBarrier();
    for (var stage = 0u; stage < 2u; stage++) {    // of the logits as they are; of those that the request leaves
        let plain = stage == 0u;
        if (!plain) {
            if (request.candidates == 0u) {
                break;
            }
            for (var i = lane; i < request.penalised; i += LANES) {
                let at = first + lists[request.first + i].x;
                let x = bitcast<f32>(logits[at]);
                lists[request.first + i].y = logits[at];
                let scaled = select(x * request.penalty, x / request.penalty, x > 0.0);
                logits[at] = bitcast<u32>(clamp(scaled, -3.402823466e38, 3.402823466e38));
            }
            storageBarrier();
            workgroupBarrier();
            for (var i = lane; i < request.banned; i += LANES) {
                logits[first + lists[request.first + request.penalised + i].x] = BANNED;
            }
            storageBarrier();
            workgroupBarrier();
        }
        if (plain || request.penalised + request.banned > 0u) {
            scan(first, lane, plain);
            if (lane == 0u) {
                results[result] = select(ids[0], NONE, keys[0] <= BANNED_KEY);
                if (plain) {
                    results[result + 1u] = atomicLoad(&bad);
                    results[result + 2u] = bitcast<u32>(value_of(keys[0]));
                }
            }
            workgroupBarrier();
        }
        if (plain && request.alternatives > 0u) {
            let largest = value_of(keys[0]);
            workgroupBarrier();
            sum_exp(first, lane, largest);
            if (lane == 0u) {
                results[result + 3u] = bitcast<u32>(shares[0]);
            }
            workgroupBarrier();
        }
        let wanted = select(select(request.candidates, 0u, request.candidates == 1u), max(request.alternatives, 1u) - 1u, plain);
        let count = min(wanted, params.vocab);
        if (count > 0u) {
            choose(first, lane, count);
            if (plain) {
                if (lane < count) {
                    results[result + 8u + 2u * lane] = ids[lane];
                    results[result + 9u + 2u * lane] = bitcast<u32>(value_of(keys[lane]));
                }
            } else {
                var share = 0.0;
                if (lane < count && keys[lane] > BANNED_KEY) {
                    share = exp_of((value_of(keys[lane]) - value_of(keys[0])) / request.temperature);
                }
                shares[lane] = share;
                workgroupBarrier();
                if (lane == 0u && keys[0] > BANNED_KEY) {
                    var real = count;
                    while (keys[real - 1u] <= BANNED_KEY) {
                        real--;
                    }
                    results[result] = draw(request, real);
                }
            }
            workgroupBarrier();
        }
    }
    if (request.alternatives > 0u) {
        storageBarrier();
        let token = results[result];
        if (lane == 0u) {
            results[result + 4u] = logits[first + min(token, params.vocab - 1u)];
        }
        storageBarrier();
        for (var i = lane; i < request.penalised; i += LANES) {
            if (lists[request.first + i].x == token) {
                results[result + 4u] = lists[request.first + i].y;
            }
        }
    }
}
