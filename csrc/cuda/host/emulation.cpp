#include "cuda/host/emulation.h"

#include <memory>
#include <numeric>
#include <thread>
#include <vector>

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/common_interface_defs.h>
#endif

// tmoe_change_flow(keep, next): keeps the registers that a call preserves on the stack and the stack pointer in *keep, and goes on where `next`
// was kept. (swapcontext would ask the system for its signal mask each time, and the sanitizer would clear the whole stack's shadow.)
extern "C" void tmoe_change_flow(void** keep, void* next);
#if defined(__x86_64__)
asm(R"(
.text
.type tmoe_change_flow,@function
tmoe_change_flow:
    pushq %rbp
    pushq %rbx
    pushq %r12
    pushq %r13
    pushq %r14
    pushq %r15
    movq %rsp, (%rdi)
    movq %rsi, %rsp
    popq %r15
    popq %r14
    popq %r13
    popq %r12
    popq %rbx
    popq %rbp
    ret
.size tmoe_change_flow, .-tmoe_change_flow
)");
#elif defined(__aarch64__)
asm(R"(
.text
.type tmoe_change_flow,%function
tmoe_change_flow:
    sub sp, sp, #160
    stp x19, x20, [sp, #0]
    stp x21, x22, [sp, #16]
    stp x23, x24, [sp, #32]
    stp x25, x26, [sp, #48]
    stp x27, x28, [sp, #64]
    stp x29, x30, [sp, #80]
    stp d8, d9, [sp, #96]
    stp d10, d11, [sp, #112]
    stp d12, d13, [sp, #128]
    stp d14, d15, [sp, #144]
    mov x9, sp
    str x9, [x0]
    mov sp, x1
    ldp x19, x20, [sp, #0]
    ldp x21, x22, [sp, #16]
    ldp x23, x24, [sp, #32]
    ldp x25, x26, [sp, #48]
    ldp x27, x28, [sp, #64]
    ldp x29, x30, [sp, #80]
    ldp d8, d9, [sp, #96]
    ldp d10, d11, [sp, #112]
    ldp d12, d13, [sp, #128]
    ldp d14, d15, [sp, #144]
    add sp, sp, #160
    ret
.size tmoe_change_flow, .-tmoe_change_flow
)");
#else
#error "the emulation changes stacks on x86-64 and AArch64 only"
#endif

namespace tmoe {
namespace cuda {
namespace host {

Index thread_index, block_index, block_size, grid_size;

namespace {

constexpr size_t kStackBytes = size_t{128} << 10;
constexpr uint32_t kNone = UINT32_MAX;
constexpr unsigned char kUnset = 0xa5;   // what shared memory holds before a kernel writes it

/** One flow of control: the scheduler's own, or one that runs threads. */
struct Flow {
    void* kept = nullptr;                     // its stack pointer while it waits
    std::unique_ptr<unsigned char[]> stack;   // null: the scheduler's
    const void* bottom = nullptr;
    size_t bytes = 0;
};

/** Goes on in `to` until something goes on in `from`; the sanitizer is told of the other stack. */
void change(Flow& from, Flow& to) {
#if defined(__SANITIZE_ADDRESS__)
    void* fake = nullptr;
    __sanitizer_start_switch_fiber(&fake, to.bottom, to.bytes);
    tmoe_change_flow(&from.kept, to.kept);
    __sanitizer_finish_switch_fiber(fake, nullptr, nullptr);
#else
    tmoe_change_flow(&from.kept, to.kept);
#endif
}

Order order = Order::Ascending;
uint64_t random_state = 1;

/** 0 … n - 1 in the order in which they are to run. */
void arrange(std::vector<unsigned>& out, size_t n) {
    out.resize(n);
    std::iota(out.begin(), out.end(), 0u);
    for (size_t i = 0; order == Order::Descending && i < n; i++) out[i] = static_cast<unsigned>(n - 1 - i);
    for (size_t i = n; order == Order::Shuffled && i > 1; i--) {
        random_state = random_state * 6364136223846793005ull + 1442695040888963407ull;
        std::swap(out[i - 1], out[(random_state >> 33) % i]);
    }
}

enum class State : uint8_t { Ready, AtWarp, AtBlock, Done };

class Block {
  public:
    const char* run(unsigned threads, void (*body)(void*), void* context) {
        threads_ = threads;
        body_ = body;
        context_ = context;
        states_.assign(threads, State::Ready);
        flow_of_.assign(threads, kNone);
        at_warp_.assign((threads + 31) / 32, 0);
        words_.resize(size_t{threads} * 8);
        started_ = done_ = at_block_ = 0;
        fault_ = nullptr;
        if (owner_ != std::this_thread::get_id()) flows_.clear(), free_.clear();  // they go back to another thread's stack
        owner_ = std::this_thread::get_id();
        arrange(turns_, threads);
        while (started_ < threads && !fault_) resume(take_flow());
        while (done_ < threads && !fault_) {
            bool any = false;
            if (order == Order::Shuffled) arrange(turns_, threads);
            for (unsigned i = 0; i < threads && !fault_; i++) {
                const unsigned thread = turns_[i];
                if (states_[thread] != State::Ready) continue;
                any = true;
                resume(flow_of_[thread]);
            }
            if (!any && !fault_) fault_ = "threads wait at barriers that others never reach";
        }
        if (fault_) flows_.clear(), free_.clear();  // their stacks are abandoned as they are
        return fault_;
    }

    void barrier(State where) {
        const unsigned thread = thread_index.x, warp = thread / 32, first = where == State::AtWarp ? warp * 32 : 0;
        const unsigned count = where == State::AtWarp ? (threads_ - first < 32 ? threads_ - first : 32) : threads_;
        unsigned& waiting = where == State::AtWarp ? at_warp_[warp] : at_block_;
        if (++waiting == count) {
            waiting = 0;
            for (unsigned i = first; i < first + count; i++) states_[i] = State::Ready;
            return;
        }
        states_[thread] = where;
        change(flows_[flow_of_[thread]]->flow, scheduler_);
        thread_index.x = thread;
    }

    uint32_t* words(unsigned lane) { return words_.data() + (thread_index.x / 32 * 32 + lane) * 8; }

  private:
    struct OwnFlow {
        Flow flow;
        uint32_t thread = kNone;
    };

    uint32_t take_flow() {
        if (!free_.empty()) {
            const uint32_t index = free_.back();
            free_.pop_back();
            return index;
        }
        flows_.push_back(std::make_unique<OwnFlow>());
        Flow& flow = flows_.back()->flow;
        flow.stack.reset(new unsigned char[kStackBytes]);
        flow.bottom = flow.stack.get();
        flow.bytes = kStackBytes;
        flow.kept = first_frame(flow.stack.get() + kStackBytes);
        return static_cast<uint32_t>(flows_.size() - 1);
    }

    void resume(uint32_t index) {
        current_ = index;
        if (flows_[index]->thread != kNone) thread_index.x = flows_[index]->thread;
        change(scheduler_, flows_[index]->flow);
    }

    static void enter();
    /** What tmoe_change_flow takes off the stack to begin at `enter`. `top` is a multiple of 16. */
    static void* first_frame(unsigned char* top) {
        void (*begin)() = &Block::enter;
#if defined(__x86_64__)
        unsigned char* at = top - 64;  // six registers, the place to return to, and what `enter` would return to
        memset(at, 0, 64);
        memcpy(at + 48, &begin, sizeof begin);
#else
        unsigned char* at = top - 160;
        memset(at, 0, 160);
        memcpy(at + 88, &begin, sizeof begin);
#endif
        return at;
    }
    /** Runs threads that have not begun, one after another; a flow whose thread has to wait stays that thread's until it ends. */
    void serve() {
#if defined(__SANITIZE_ADDRESS__)
        __sanitizer_finish_switch_fiber(nullptr, &scheduler_.bottom, &scheduler_.bytes);
#endif
        for (;;) {
            const uint32_t own = current_;
            while (started_ < threads_) {
                const unsigned thread = turns_[started_++];
                flow_of_[thread] = own;
                flows_[own]->thread = thread;
                thread_index.x = thread;
                body_(context_);
                states_[thread] = State::Done;
                done_++;
                if (at_block_ > 0 || at_warp_[thread / 32] > 0) fault_ = "a thread ended while others of its block wait for it at a barrier";
                if (fault_) break;
            }
            flows_[own]->thread = kNone;
            free_.push_back(own);
            change(flows_[own]->flow, scheduler_);
        }
    }

    unsigned threads_ = 0, started_ = 0, done_ = 0, at_block_ = 0;
    void (*body_)(void*) = nullptr;
    void* context_ = nullptr;
    std::vector<State> states_;
    std::vector<unsigned> turns_;
    std::vector<uint32_t> flow_of_, words_;
    std::vector<unsigned> at_warp_;
    std::vector<std::unique_ptr<OwnFlow>> flows_;
    std::vector<uint32_t> free_;
    Flow scheduler_;
    uint32_t current_ = 0;
    std::thread::id owner_;
    const char* fault_ = nullptr;
};

Block block;
std::unique_ptr<unsigned char[]> shared;

}  // namespace

void Block::enter() { block.serve(); }

void set_order(Order wanted, uint64_t seed) {
    order = wanted;
    random_state = seed;
}
unsigned char* shared_memory() { return shared.get(); }
void block_barrier() { block.barrier(State::AtBlock); }
void warp_barrier() { block.barrier(State::AtWarp); }
uint32_t* lane_words(unsigned lane) { return block.words(lane); }

const char* run(Index grid, unsigned threads, size_t shared_bytes, void (*body)(void*), void* context) {
    grid_size = grid;
    block_size = {threads, 1, 1};
    shared.reset(new unsigned char[shared_bytes]);  // of exactly this size, so that the sanitizer sees a step beyond it
    std::vector<unsigned> blocks;
    arrange(blocks, size_t{grid.x} * grid.y * grid.z);
    for (const unsigned index : blocks) {
        block_index = {index % grid.x, index / grid.x % grid.y, index / grid.x / grid.y};
        if (shared_bytes) memset(shared.get(), kUnset, shared_bytes);
        if (const char* fault = block.run(threads, body, context)) return fault;
    }
    return nullptr;
}

}  // namespace host
}  // namespace cuda
}  // namespace tmoe
