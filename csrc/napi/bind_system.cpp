// The addon's own functions: what this process and machine are, and the flag that cancels work.
#include "core/cpu_model.h"
#include "core/file_errors.h"
#include "core/file_lock.h"
#include "core/memory.h"
#include "core/store/crc32c.h"
#include "cpu/kernels.h"
#include "napi/bindings.h"
#include "napi/objects.h"

namespace tmoe {

namespace {

Status initialize(Call& call, napi_value&) {
    napi_valuetype type = napi_undefined;
    napi_typeof(call.env, call.args[0], &type);
    if (type != napi_function) return invalid_argument(call.env, "makeError", "a function", call.args[0]);
    napi_ref reference = nullptr;
    if (napi_create_reference(call.env, call.args[0], 1, &reference) != napi_ok) return exception_pending();
    if (call.environment.make_error) napi_delete_reference(call.env, call.environment.make_error);
    call.environment.make_error = reference;
    return {};
}

Status status_codes(Call& call, napi_value& result) {
    constexpr auto last = static_cast<int32_t>(StatusCode::CANCELLED);
    if (napi_create_array_with_length(call.env, last, &result) != napi_ok) return exception_pending();
    for (int32_t code = 1; code <= last; code++)
        napi_set_element(call.env, result, static_cast<uint32_t>(code - 1), js_text(call.env, status_code_name(static_cast<StatusCode>(code))));
    return {};
}

Status cpu_info(Call& call, napi_value& result) {
    napi_env env = call.env;
    napi_value isas = nullptr, features = nullptr;
    if (napi_create_object(env, &result) != napi_ok || napi_create_array(env, &isas) != napi_ok ||
        napi_create_object(env, &features) != napi_ok) {
        return exception_pending();
    }
    Isa available[4];
    const size_t count = available_isas(available);
    for (size_t i = 0; i < count; i++) napi_set_element(env, isas, static_cast<uint32_t>(i), js_text(env, isa_name(available[i])));
    const CpuFeature* found = nullptr;
    const size_t looked_for = cpu_features(found);
    for (size_t i = 0; i < looked_for; i++) {
        napi_value present = nullptr;
        napi_get_boolean(env, found[i].present, &present);
        define(env, features, found[i].name, present);
    }
    define(env, result, "model", js_text(env, cpu_model()));
    define(env, result, "isas", isas);
    define(env, result, "features", features);
    return {};
}

Status read_counters(Call& call, napi_value& result) {
    napi_env env = call.env;
    if (napi_create_object(env, &result) != napi_ok) return exception_pending();
    Counters& now = counters();
    define(env, result, "liveBytes", js_number(env, static_cast<double>(now.live_bytes.load())));
    define(env, result, "liveHandles", js_number(env, static_cast<double>(now.live_handles.load())));
    define(env, result, "openFiles", js_number(env, static_cast<double>(now.open_files.load())));
    define(env, result, "activeJobs", js_number(env, static_cast<double>(now.active_jobs.load())));
    return {};
}

/** peakLiveBytes(restart = false): the greatest live bytes since the last restart. */
Status peak_live_bytes(Call& call, napi_value& result) {
    bool restart = false;
    if (!is_undefined(call.env, call.args[0])) TMOE_RETURN_IF_ERROR(read_boolean(call.env, call.args[0], "restart", restart));
    LiveBytes& live = counters().live_bytes;
    result = js_number(call.env, static_cast<double>(restart ? live.restart_peak() : live.peak()));
    return {};
}

Status read_available_memory(Call& call, napi_value& result) {
    result = js_number(call.env, static_cast<double>(available_memory()));
    return {};
}

constexpr int64_t kMostReserved = int64_t{1} << 52;

/** reserveMemory(bytes). */
Status reserve_memory(Call& call, napi_value& result) {
    int64_t bytes = 0;
    TMOE_RETURN_IF_ERROR(read_integer(call.env, call.args[0], "bytes", 0, kMostReserved, bytes));
    auto reservation = std::make_unique<Reservation>();
    TMOE_RETURN_IF_ERROR(reservation->resize(static_cast<uint64_t>(bytes)));
    return wrap(call.environment, std::make_unique<ReservationHandle>(call.env, std::move(reservation)), result);
}

/** resize(bytes): false where the system grants no more; after `dispose` nothing is held, whatever is asked for. */
Status resize_reservation(Call& call, napi_value& result) {
    ReservationHandle* handle = nullptr;
    int64_t bytes = 0;
    TMOE_RETURN_IF_ERROR(unwrap(call.environment, call.self, "this", handle));
    TMOE_RETURN_IF_ERROR(read_integer(call.env, call.args[0], "bytes", 0, kMostReserved, bytes));
    const bool done = handle->reservation && handle->reservation->resize(static_cast<uint64_t>(bytes)).ok();
    return napi_get_boolean(call.env, done, &result) == napi_ok ? Status() : exception_pending();
}

Status dispose_reservation(Call& call, napi_value&) {
    ReservationHandle* handle = nullptr;
    TMOE_RETURN_IF_ERROR(unwrap(call.environment, call.self, "this", handle));
    handle->dispose();
    return {};
}

Status try_lock_file(Call& call, napi_value& result) {
    int64_t descriptor = -1;
    TMOE_RETURN_IF_ERROR(read_integer(call.env, call.args[0], "descriptor", 0, INT32_MAX, descriptor));
    bool locked = false;
    TMOE_RETURN_IF_ERROR(try_lock(static_cast<int>(descriptor), locked));
    return napi_get_boolean(call.env, locked, &result) == napi_ok ? Status() : exception_pending();
}

Status read_open_file_limit(Call& call, napi_value& result) {
    result = js_number(call.env, open_file_limit());
    return {};
}

/** crc32c(bytes, crc = 0). */
Status checksum(Call& call, napi_value& result) {
    ArrayView bytes;
    int64_t crc = 0;
    TMOE_RETURN_IF_ERROR(read_typed_array(call.env, call.args[0], "bytes", napi_uint8_array, 0, bytes));
    if (!is_undefined(call.env, call.args[1])) TMOE_RETURN_IF_ERROR(read_integer(call.env, call.args[1], "crc", 0, UINT32_MAX, crc));
    result = js_number(call.env, crc32c(bytes.data, bytes.bytes, static_cast<uint32_t>(crc)));
    return {};
}

constexpr uint64_t kLineBytes = 64;

/** bytesToLine(bytes): from the first of them to the first that begins a cache line. */
Status bytes_to_line(Call& call, napi_value& result) {
    ArrayView bytes;
    TMOE_RETURN_IF_ERROR(read_typed_array(call.env, call.args[0], "bytes", napi_uint8_array, 0, bytes));
    const uint64_t at = reinterpret_cast<uintptr_t>(bytes.data);
    result = js_number(call.env, static_cast<double>(round_up(at, kLineBytes) - at));
    return {};
}

Status create_cancel(Call& call, napi_value& result) {
    return wrap(call.environment, std::make_unique<CancelHandle>(call.env), result);
}

Status cancel(Call& call, napi_value&) {
    CancelHandle* handle = nullptr;
    TMOE_RETURN_IF_ERROR(unwrap(call.environment, call.self, "this", handle));
    handle->flag->store(true);
    return {};
}

Status is_cancelled(Call& call, napi_value& result) {
    CancelHandle* handle = nullptr;
    TMOE_RETURN_IF_ERROR(unwrap(call.environment, call.self, "this", handle));
    return napi_get_boolean(call.env, handle->flag->load(), &result) == napi_ok ? Status() : exception_pending();
}

}  // namespace

napi_status bind_system(Environment& environment, napi_value exports) {
    const Member members[] = {{"cancel", throwing<cancel>, nullptr}, {"cancelled", nullptr, throwing<is_cancelled>}};
    const Member reservation[] = {{"resize", throwing<resize_reservation>, nullptr}, {"dispose", throwing<dispose_reservation>, nullptr}};
    napi_status status = define_class(environment, ClassId::Cancel, members, 2);
    if (status == napi_ok) status = define_class(environment, ClassId::Reservation, reservation, 2);
    const struct {
        const char* name;
        napi_callback function;
    } functions[] = {
        {"initialize", throwing<initialize>},
        {"statusCodes", throwing<status_codes>},
        {"cpuInfo", throwing<cpu_info>},
        {"counters", throwing<read_counters>},
        {"peakLiveBytes", throwing<peak_live_bytes>},
        {"availableMemory", throwing<read_available_memory>},
        {"reserveMemory", throwing<reserve_memory>},
        {"createCancel", throwing<create_cancel>},
        {"crc32c", throwing<checksum>},
        {"bytesToLine", throwing<bytes_to_line>},
        {"tryLockFile", throwing<try_lock_file>},
        {"openFileLimit", throwing<read_open_file_limit>},
    };
    for (const auto& entry : functions)
        if (status == napi_ok) status = export_function(environment.env, exports, entry.name, entry.function);
    return status;
}

}  // namespace tmoe
