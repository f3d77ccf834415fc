#include "cpu/attention.h"

namespace tmoe {

namespace {

struct Tile {
    const AttentionRun* run;
    size_t first_row, rows;      // of the run's (token, query head of the group) pairs
};

size_t tiles_of(const AttentionRun& run, size_t group) { return (run.count * group + kAttendRows - 1) / kAttendRows; }

}  // namespace

size_t AttentionScratch::grown(size_t threads, size_t positions) const {
    const size_t needed = (positions + kLanes - 1) / kLanes * kLanes;
    if (needed <= stride && scores.size() >= threads * kAttendRows * stride * sizeof(float)) return stride;
    return needed > 2 * stride ? needed : 2 * stride;  // doubling: a growing sequence must not allocate at every step
}

size_t AttentionScratch::bytes(size_t threads, size_t positions) const {
    const size_t next = grown(threads, positions);
    return next == stride ? scores.size() : threads * kAttendRows * next * sizeof(float);
}

Status AttentionScratch::reserve(size_t threads, size_t positions) {
    const size_t next = grown(threads, positions);
    if (next == stride) return {};
    TMOE_RETURN_IF_ERROR(scores.allocate(threads * kAttendRows * next * sizeof(float)));
    stride = next;
    return {};
}

Span attention_item(const AttentionArgs& a, size_t item, size_t n) {
    const AttentionRun& run = a.runs[0];   // the others' begin is nothing that a thread waits for
    const size_t page = a.first_of(run.start + 1) / kKvPage + n, key_bytes = kKvPage * a.head_dim * kv_bytes(a.type);
    if (item >= a.kv_heads || page * kKvPage > run.start) return {};
    const size_t head_bytes = kKvPage * (a.head_dim + a.value_dim) * kv_bytes(a.type);
    return {run.pages[page] + a.layer_offset + item * head_bytes, key_bytes};
}

Status attention(const Context& context, const AttentionArgs& a, AttentionScratch& scratch) {
    const auto cancelled = [] { return Status(StatusCode::CANCELLED, "attention was cancelled"); };
    const size_t group = a.heads / a.kv_heads, value_stride = a.value_stride ? a.value_stride : a.value_dim;
    const size_t head_bytes = kKvPage * (a.head_dim + a.value_dim) * kv_bytes(a.type);
    const auto key_offset = [&](size_t head) { return a.layer_offset + head * head_bytes; };
    const auto value_offset = [&](size_t head) { return key_offset(head) + kKvPage * a.head_dim * kv_bytes(a.type); };

    const auto write = [&](const AttentionRun& run, size_t token, size_t head) {
        const size_t row = run.first + token, position = run.start + token;
        context.kernels.kv_write(run.pages[position / kKvPage], key_offset(head), value_offset(head), a.type, position % kKvPage,
                                 a.k + (row * a.kv_heads + head) * a.head_dim, a.head_dim,
                                 a.v + (row * a.kv_heads + head) * value_stride, a.value_dim);
    };

    size_t tokens = 0, tiles = 0;
    for (size_t i = 0; i < a.run_count; i++) {
        tokens += a.runs[i].count;
        tiles += tiles_of(a.runs[i], group);
    }
    bool done = true;
    const bool write_apart = tiles > a.run_count;   // where one tile has all of a run's tokens, the tile writes them, just before it reads them
    if (write_apart) {
        done = context.pool.for_each(tokens, context.cancel, [&](size_t item, size_t) {
            const AttentionRun* run = a.runs;
            while (item >= run->count) item -= run++->count;
            for (size_t head = 0; head < a.kv_heads; head++) write(*run, item, head);
        });
    }
    if (!done) return cancelled();

    done = context.pool.for_each(tiles * a.kv_heads, context.cancel, [&](size_t item, size_t worker) {
        const size_t head = item % a.kv_heads;
        size_t tile = item / a.kv_heads;
        const AttentionRun* run = a.runs;
        while (tile >= tiles_of(*run, group)) tile -= tiles_of(*run++, group);
        const size_t first = tile * kAttendRows, pairs = run->count * group;
        for (size_t token = 0; !write_apart && token < run->count; token++) write(*run, token, head);
        AttendTile t;
        t.rows = pairs - first < kAttendRows ? pairs - first : kAttendRows;
        for (size_t r = 0; r < t.rows; r++) {
            const size_t token = (first + r) / group, query = head * group + (first + r) % group;
            const size_t row = run->first + token;
            t.q[r] = a.q + (row * a.heads + query) * a.head_dim;
            t.out[r] = a.out + (row * a.heads + query) * a.value_dim;
            t.visible[r] = run->start + token + 1;
            t.first[r] = a.first_of(t.visible[r]);
            t.sink[r] = a.sinks ? a.sinks + query : nullptr;
        }
        t.pages = run->pages;
        t.key_offset = key_offset(head);
        t.value_offset = value_offset(head);
        t.type = a.type;
        t.head_dim = a.head_dim;
        t.value_dim = a.value_dim;
        t.scale = a.scale;
        t.scores = scratch.scores.as<float>() + worker * kAttendRows * scratch.stride;
        t.score_stride = scratch.stride;
        t.alone = pairs <= kAttendRows;
        // The thread's next item is probably this one, where every thread takes one in turn.
        const size_t next = head + context.pool.threads();
        t.then = t.alone && next < a.kv_heads ? t.pages[t.first[0] / kKvPage] + key_offset(next) : nullptr;
        context.kernels.attend(t);
    });
    return done ? Status() : cancelled();
}

}  // namespace tmoe
