#include "napi/worker.h"

#include "core/memory.h"
#include "napi/errors.h"

namespace tmoe {

namespace {

void deliver_progress(Environment& environment, Pending& pending, const Letter& letter) {
    napi_env env = environment.env;
    napi_value callback = nullptr, undefined = nullptr;
    if (!pending.progress || pending.thrown) return;
    napi_get_reference_value(env, pending.progress, &callback);
    napi_get_undefined(env, &undefined);
    napi_value argument = letter.progress(env);
    // `pending` may not be used after the call: the callback can start work, and the map may move.
    const uint64_t id = letter.id;
    if (!callback || !argument || napi_call_function(env, undefined, callback, 1, &argument, nullptr) == napi_ok) return;
    napi_value error = nullptr;
    if (napi_get_and_clear_last_exception(env, &error) != napi_ok || !error) return;
    const auto found = environment.pending.find(id);
    if (found == environment.pending.end()) return;
    // In an array, because a reference can be made to objects only and anything can be thrown.
    napi_value box = nullptr;
    if (napi_create_array_with_length(env, 1, &box) != napi_ok || napi_set_element(env, box, 0, error) != napi_ok) return;
    napi_create_reference(env, box, 1, &found->second.thrown);
    found->second.task->cancel();
}

void settle(Environment& environment, Pending pending, const Status& status) {
    napi_env env = environment.env;
    napi_value value = nullptr;
    if (environment.pending.empty()) environment.mailbox->hold(env, false);
    pending.task->finished();
    if (pending.thrown) {
        napi_value box = nullptr, error = nullptr;
        napi_get_reference_value(env, pending.thrown, &box);
        if (box) napi_get_element(env, box, 0, &error);
        pending.forget(env);
        if (error) napi_reject_deferred(env, pending.deferred, error);
        return;
    }
    Status outcome = status;
    napi_value kept = nullptr;
    if (pending.kept) napi_get_reference_value(env, pending.kept, &kept);
    if (outcome.ok()) outcome = pending.task->result(environment, kept, value);
    pending.forget(env);
    if (outcome.ok()) {
        if (!value) napi_get_undefined(env, &value);
        if (value) napi_resolve_deferred(env, pending.deferred, value);
        return;
    }
    napi_value error = take_error(environment, outcome);
    if (error) napi_reject_deferred(env, pending.deferred, error);
}

// On the JavaScript thread, through the thread-safe function; env is null while the environment ends.
void open_letters(napi_env env, napi_value, void*, void*) {
    if (!env) return;
    Environment& environment = Environment::of(env);
    for (const Letter& letter : environment.mailbox->take()) {
        napi_handle_scope scope = nullptr;
        if (napi_open_handle_scope(env, &scope) != napi_ok) return;
        const auto found = environment.pending.find(letter.id);
        if (found != environment.pending.end()) {
            if (letter.last) {
                Pending pending = std::move(found->second);
                environment.pending.erase(found);
                settle(environment, std::move(pending), letter.status);
            } else {
                deliver_progress(environment, found->second, letter);
            }
        }
        napi_close_handle_scope(env, scope);
    }
}

Status reference(napi_env env, napi_value value, napi_ref& out) {
    return napi_create_reference(env, value, 1, &out) == napi_ok ? Status() : exception_pending();
}

Status keep_values(napi_env env, const Keep& keep, Pending& pending) {
    if (keep.progress) TMOE_RETURN_IF_ERROR(reference(env, keep.progress, pending.progress));
    if (keep.values.empty()) return {};
    napi_value kept = nullptr;
    if (napi_create_array_with_length(env, keep.values.size(), &kept) != napi_ok) return exception_pending();
    for (size_t i = 0; i < keep.values.size(); i++)
        if (napi_set_element(env, kept, static_cast<uint32_t>(i), keep.values[i]) != napi_ok) return exception_pending();
    return reference(env, kept, pending.kept);
}

}  // namespace

void Pending::forget(napi_env env) {
    for (napi_ref* item : {&kept, &progress, &thrown}) {
        if (*item) napi_delete_reference(env, *item);
        *item = nullptr;
    }
}

napi_status Mailbox::create(napi_env env, std::shared_ptr<Mailbox>& out) {
    out = std::make_shared<Mailbox>();
    napi_value name = nullptr;
    napi_status status = napi_create_string_utf8(env, "tiered-moe", NAPI_AUTO_LENGTH, &name);
    if (status != napi_ok) return status;
    status = napi_create_threadsafe_function(env, nullptr, nullptr, name, 0, 1, nullptr, nullptr, nullptr, open_letters, &out->wake_);
    return status == napi_ok ? napi_unref_threadsafe_function(env, out->wake_) : status;
}

// The call is made under the lock that `close` takes, so a thread never touches a function that Node has freed.
void Mailbox::post(Letter letter) {
    std::lock_guard<std::mutex> guard(lock_);
    if (!wake_) return;
    letters_.push_back(std::move(letter));
    if (!woken_) woken_ = napi_call_threadsafe_function(wake_, nullptr, napi_tsfn_nonblocking) == napi_ok;
}

void Mailbox::close() {
    std::vector<Letter> dropped;
    std::lock_guard<std::mutex> guard(lock_);
    wake_ = nullptr;
    dropped.swap(letters_);
}

void Mailbox::hold(napi_env env, bool alive) {
    if (!wake_) return;
    if (alive) {
        napi_ref_threadsafe_function(env, wake_);
    } else {
        napi_unref_threadsafe_function(env, wake_);
    }
}

std::vector<Letter> Mailbox::take() {
    std::vector<Letter> letters;
    std::lock_guard<std::mutex> guard(lock_);
    letters.swap(letters_);
    woken_ = false;
    return letters;
}

Ticket::Ticket(std::shared_ptr<Mailbox> mailbox, uint64_t id) : mailbox_(std::move(mailbox)), id_(id) { counters().active_jobs++; }

Ticket::~Ticket() {
    if (!done_) done(Status(StatusCode::RUNTIME_INVARIANT_VIOLATED, "a piece of work was dropped before it ran"));
}

void Ticket::progress(std::function<napi_value(napi_env)> make) const {
    Letter letter;
    letter.id = id_;
    letter.progress = std::move(make);
    mailbox_->post(std::move(letter));
}

void Ticket::done(Status status) {
    done_ = true;
    counters().active_jobs--;
    Letter letter;
    letter.id = id_;
    letter.last = true;
    letter.status = std::move(status);
    mailbox_->post(std::move(letter));
}

Status start(Environment& environment, std::shared_ptr<Task> task, const Keep& keep, JobQueue& queue, napi_value& promise) {
    napi_env env = environment.env;
    Pending pending;
    Status status = keep_values(env, keep, pending);
    if (status.ok() && napi_create_promise(env, &pending.deferred, &promise) != napi_ok) status = exception_pending();
    if (!status.ok()) {
        pending.forget(env);
        return status;
    }
    pending.task = task;
    const uint64_t id = environment.next_id++;
    if (environment.pending.empty()) environment.mailbox->hold(env, true);
    environment.pending.emplace(id, std::move(pending));
    auto ticket = std::make_shared<Ticket>(environment.mailbox, id);
    // A queue that refuses the job destroys it, and the ticket with it, which rejects the promise.
    (void)queue.submit([task = std::move(task), ticket = std::move(ticket)]() mutable {
        Status outcome = task->run(*ticket);
        task->release();
        task.reset();
        ticket->done(std::move(outcome));
    });
    return {};
}

Status start(Environment& environment, std::shared_ptr<Task> task, const Keep& keep, napi_value& promise) {
    JobQueue queue;
    TMOE_RETURN_IF_ERROR(queue.start());
    return start(environment, std::move(task), keep, queue, promise);
}

}  // namespace tmoe
