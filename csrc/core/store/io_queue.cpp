#include "core/store/io_queue.h"

#include <algorithm>

#include "core/threads.h"

namespace tmoe {

namespace {

constexpr std::chrono::seconds kLongestEnd{5};

/** The disk's word, not the file's end: worth a second attempt. */
bool may_pass(const Status& status) {
    if (status.code() != StatusCode::FILE_READ_FAILED) return false;
    for (const Detail& detail : status.details()) {
        if (detail.key == "errno") return true;
    }
    return false;
}

/** What a request is told: which expert, and the reason of the system. */
Status unavailable(const Load& load, const Status& cause) {
    if (cause.code() != StatusCode::FILE_READ_FAILED) return cause;
    Status status(StatusCode::EXPERT_UNAVAILABLE, format("expert %u of layer %u cannot be read: %s", load.expert, load.layer, cause.message().c_str()));
    (void)std::move(status).with("layer", load.layer).with("expert", load.expert);  // adds in place
    for (const Detail& detail : cause.details()) {
        if (detail.is_text) (void)std::move(status).with(detail.key, detail.text);
        else (void)std::move(status).with(detail.key, detail.number);
    }
    return status;
}

}  // namespace

Status IoQueue::start(std::shared_ptr<Shared> shared, size_t threads, size_t slots) {
    shared->stale.assign(slots, 0);
    shared->most_ahead = std::max<size_t>(1, threads - 1);
    shared_ = std::move(shared);
    for (size_t i = 0; i < threads; i++) {
        {
            std::lock_guard<std::mutex> lock(threads_->mutex);
            threads_->running++;
        }
        const Status status = start_thread([state = shared_, threads = threads_]() mutable {
            ask_for_short_turns();
            run(state);
            state.reset();
            std::lock_guard<std::mutex> lock(threads->mutex);
            threads->running--;
            threads->end.notify_all();
        });
        if (!status.ok()) {
            std::lock_guard<std::mutex> lock(threads_->mutex);
            threads_->running--;
        }
        if (!status.ok() && i == 0) return status;
        if (!status.ok()) break;  // fewer threads read slower
    }
    return {};
}

IoQueue::~IoQueue() { stop(); }

void IoQueue::stop() {
    if (!shared_) return;
    {
        std::lock_guard<std::mutex> lock(shared_->mutex);
        shared_->stop = true;
        for (auto* queue : {&shared_->demand, &shared_->prefetch}) {
            for (const std::shared_ptr<Load>& load : *queue) load->stop = true;
            queue->clear();
        }
    }
    shared_->work.notify_all();
}

void IoQueue::close() {
    stop();
    std::unique_lock<std::mutex> lock(threads_->mutex);
    threads_->end.wait_for(lock, kLongestEnd, [&] { return threads_->running == 0; });
}

void IoQueue::submit(const std::vector<std::shared_ptr<Load>>& loads) {
    if (loads.empty()) return;
    {
        std::lock_guard<std::mutex> lock(shared_->mutex);
        for (const std::shared_ptr<Load>& load : loads) (load->demand ? shared_->demand : shared_->prefetch).push_back(load);
    }
    shared_->work.notify_all();
}

void IoQueue::promote(const std::shared_ptr<Load>& load) {
    {
        std::lock_guard<std::mutex> lock(shared_->mutex);
        if (load->demand) return;
        load->demand = true;
        if (load->next == load->pieces || load->stop) return;
        shared_->demand.push_back(load);
    }
    shared_->work.notify_all();  // the threads that prefetches leave free
}

bool IoQueue::drop(const std::shared_ptr<Load>& load) {
    std::lock_guard<std::mutex> lock(shared_->mutex);
    if (load->dropped) return false;
    load->dropped = true;
    load->stop = true;
    shared_->stale[load->slot] += static_cast<uint32_t>(load->active);
    return load->next == 0;
}

bool IoQueue::drop_unstarted(const std::shared_ptr<Load>& load) {
    std::lock_guard<std::mutex> lock(shared_->mutex);
    if (load->next > 0 || load->dropped) return false;
    load->dropped = true;
    load->stop = true;
    return true;
}

void IoQueue::wait_for_slot(size_t slot) {
    std::unique_lock<std::mutex> lock(shared_->mutex);
    shared_->end.wait(lock, [&] { return shared_->stale[slot] == 0; });
}

void IoQueue::wait_for_end(uint64_t seen, std::chrono::microseconds longest) {
    std::unique_lock<std::mutex> lock(shared_->mutex);
    shared_->end.wait_for(lock, longest, [&] { return shared_->ended.load() != seen; });
}

/** The next piece to read: the first of the demand queue, else of the prefetch queue, whose slot is free of older reads. */
bool IoQueue::take(Shared& shared, Piece& piece) {
    for (auto* queue : {&shared.demand, &shared.prefetch}) {
        const bool demand = queue == &shared.demand;
        // A disk that is busy with both would give a demand only its share.
        if (!demand && (shared.ahead >= shared.most_ahead || shared.demanded > 0)) return false;
        for (auto at = queue->begin(); at != queue->end();) {
            Load& load = **at;
            if (load.stop || load.demand != demand || load.next == load.pieces) {
                at = queue->erase(at);
                continue;
            }
            if (shared.stale[load.slot] > 0) {
                ++at;
                continue;
            }
            piece.load = *at;
            piece.index = load.next++;
            piece.ahead = !demand;
            (piece.ahead ? shared.ahead : shared.demanded)++;
            load.active++;
            if (load.next == load.pieces) queue->erase(at);
            return true;
        }
    }
    return false;
}

void IoQueue::run(const std::shared_ptr<Shared>& state) {
    Shared& shared = *state;
    ReadScratch scratch;
    std::unique_lock<std::mutex> lock(shared.mutex);
    for (;;) {
        Piece piece;
        if (shared.stop) return;
        if (!take(shared, piece)) {
            shared.work.wait(lock);
            continue;
        }
        lock.unlock();
        Load& load = *piece.load;
        Status status;
        for (int attempt = 0; attempt < 2; attempt++) {
            status = shared.source->read(load.layer, load.expert, piece.index, load.blob, scratch, &load.stop, load.sums[piece.index]);
            if (!status.ok() && status.code() != StatusCode::CANCELLED) shared.errors++;
            if (!may_pass(status)) break;
        }
        lock.lock();
        if (piece.ahead && shared.ahead-- == shared.most_ahead) shared.work.notify_one();
        if (!piece.ahead && --shared.demanded == 0 && !shared.prefetch.empty()) shared.work.notify_all();
        finish(shared, lock, piece.load, std::move(status));
    }
}

/** A piece has ended; the last one of a load checks the blob and ends the load. */
void IoQueue::finish(Shared& shared, std::unique_lock<std::mutex>& lock, const std::shared_ptr<Load>& load, Status status) {
    load->done++;
    if (status.ok() && !load->stop && load->done == load->pieces) {
        lock.unlock();
        status = shared.source->check(load->layer, load->expert, load->sums);
        if (status.ok()) shared.checked(*load);
        else shared.errors++;
        lock.lock();
    }
    load->active--;
    if (load->dropped) {
        if (--shared.stale[load->slot] > 0) return;
        shared.work.notify_all();
        shared.end.notify_all();
        return;
    }
    if (!status.ok() && !load->stop) {
        load->error = unavailable(*load, status);
        load->stop = true;
    }
    if (load->active > 0 || (!load->stop && load->done < load->pieces)) return;
    if (!load->stop) shared.arrived(*load);
    load->residency->store(load->stop ? Residency::Unavailable : Residency::Resident, std::memory_order_release);
    shared.ended++;
    shared.end.notify_all();
}

}  // namespace tmoe
