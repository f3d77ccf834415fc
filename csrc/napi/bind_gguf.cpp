// GGUF files: opening one, or files that are read like one (a header becomes plain JavaScript data), and writing a quantised one.
#include "core/gathered_files.h"
#include "core/gguf_quantize.h"
#include "napi/bindings.h"
#include "napi/file_args.h"
#include "napi/objects.h"

namespace tmoe {

namespace {

constexpr uint32_t kScopeEvery = 1024;  // elements per handle scope: a vocabulary has hundreds of thousands

template <class Make> Status make_array(napi_env env, size_t count, napi_value& out, Make&& make) {
    if (napi_create_array_with_length(env, count, &out) != napi_ok) return exception_pending();
    for (size_t start = 0; start < count; start += kScopeEvery) {
        napi_handle_scope scope = nullptr;
        if (napi_open_handle_scope(env, &scope) != napi_ok) return exception_pending();
        const size_t end = start + kScopeEvery < count ? start + kScopeEvery : count;
        for (size_t i = start; i < end; i++) {
            napi_value item = make(i);
            if (item) napi_set_element(env, out, static_cast<uint32_t>(i), item);
        }
        napi_close_handle_scope(env, scope);
    }
    return {};
}

napi_value number_or_boolean(napi_env env, GgufValue::Type type, double number) {
    if (type != GgufValue::BOOL) return js_number(env, number);
    napi_value out = nullptr;
    napi_get_boolean(env, number != 0, &out);
    return out;
}

Status metadata_value(napi_env env, const GgufValue& value, napi_value& out) {
    if (value.type == GgufValue::STRING) {
        out = js_text(env, value.text);
    } else if (value.type != GgufValue::ARRAY) {
        out = number_or_boolean(env, value.type, value.number);
    } else if (value.element == GgufValue::STRING) {
        return make_array(env, value.strings.size(), out, [&](size_t i) { return js_text(env, value.strings[i]); });
    } else {
        return make_array(env, value.numbers.size(), out,
                          [&](size_t i) { return number_or_boolean(env, value.element, value.numbers[i]); });
    }
    return out ? Status() : exception_pending();
}

// `stored` is there where reading takes other bytes of the files than the tensor has.
napi_value tensor_info(napi_env env, const GgufFile& file, const GgufTensor& tensor) {
    napi_value info = nullptr, shape = nullptr;
    if (napi_create_object(env, &info) != napi_ok || napi_create_array_with_length(env, tensor.shape.size(), &shape) != napi_ok) return nullptr;
    for (size_t i = 0; i < tensor.shape.size(); i++)
        napi_set_element(env, shape, static_cast<uint32_t>(i), js_number(env, static_cast<double>(tensor.shape[i])));
    define(env, info, "name", js_text(env, tensor.name));
    define(env, info, "type", js_text(env, gguf_type_name(tensor.type_id)));
    define(env, info, "shape", shape);
    define(env, info, "bytes", js_number(env, static_cast<double>(tensor.bytes)));
    const uint32_t stored = file.stored_type(tensor);
    if (stored != tensor.type_id) define(env, info, "stored", js_text(env, gguf_type_name(stored)));
    napi_value apart = nullptr;
    if (file.apart(tensor) && napi_get_boolean(env, true, &apart) == napi_ok) define(env, info, "apart", apart);
    return info;
}

// Own properties, so that they stay readable after `close`.
Status describe_file(napi_env env, const GgufFile& file, napi_value object) {
    napi_value metadata = nullptr, tensors = nullptr;
    if (napi_create_object(env, &metadata) != napi_ok) return exception_pending();
    for (const GgufEntry& entry : file.metadata()) {
        napi_value value = nullptr;
        TMOE_RETURN_IF_ERROR(metadata_value(env, entry.value, value));
        define(env, metadata, entry.key, value);
    }
    TMOE_RETURN_IF_ERROR(make_array(env, file.tensors().size(), tensors, [&](size_t i) { return tensor_info(env, file, file.tensors()[i]); }));
    define(env, object, "path", js_text(env, file.path()));
    define(env, object, "version", js_number(env, file.version()));
    define(env, object, "fileBytes", js_number(env, static_cast<double>(file.file_bytes())));
    define(env, object, "metadata", metadata);
    define(env, object, "tensors", tensors);
    return {};
}

class OpenTask : public Task {
  public:
    using Open = std::function<Status(std::shared_ptr<GgufFile>&)>;
    explicit OpenTask(Open open) : open_(std::move(open)) {}
    Status run(const Ticket&) override { return open_(file_); }
    Status result(Environment& environment, napi_value, napi_value& value) override {
        auto handle = std::make_unique<GgufHandle>(environment.env, file_);
        TMOE_RETURN_IF_ERROR(wrap(environment, std::move(handle), value));
        const Status status = describe_file(environment.env, *file_, value);
        file_.reset();
        return status;
    }

  private:
    Open open_;
    std::shared_ptr<GgufFile> file_;
};

Status open_gguf(Call& call, napi_value& result) {
    std::string path;
    TMOE_RETURN_IF_ERROR(read_text(call.env, call.args[0], "path", path));
    auto open = [path](std::shared_ptr<GgufFile>& file) { return GgufFile::open(path, file); };
    return start(call.environment, std::make_shared<OpenTask>(std::move(open)), {}, result);
}

/** A type that quantising makes. */
Status read_quantised(napi_env env, napi_value value, const std::string& argument, DType& out) {
    std::string type;
    TMOE_RETURN_IF_ERROR(read_text(env, value, argument, type));
    if (type != "Q8_0" && type != "Q4_0") {
        return Status(StatusCode::VALIDATION_ERROR, argument + ": expected Q8_0 or Q4_0, got " + type)
            .with("argument", argument)
            .with("expected", "Q8_0 or Q4_0")
            .with("actual", type);
    }
    out = type == "Q8_0" ? DType::Q8_0 : DType::Q4_0;
    return {};
}

// {stored, halfHead, rowStep, columnStep, parts: one of each per tensor; partFile, partOffset: of every part of every tensor; scaleFile, scaleOffset: of
// every part of those stored as MXFP4}.
Status read_gathered(napi_env env, napi_value options, std::vector<GatheredTensor>& out) {
    std::vector<uint32_t> stored, half_head, parts, part_file, scale_file;
    std::vector<uint64_t> row_step, column_step, part_offset, scale_offset;
    TMOE_RETURN_IF_ERROR(read_u32(env, options, "stored", stored));
    TMOE_RETURN_IF_ERROR(read_u32(env, options, "halfHead", half_head));
    TMOE_RETURN_IF_ERROR(read_offsets(env, options, "rowStep", row_step));
    TMOE_RETURN_IF_ERROR(read_offsets(env, options, "columnStep", column_step));
    TMOE_RETURN_IF_ERROR(read_u32(env, options, "parts", parts));
    TMOE_RETURN_IF_ERROR(read_u32(env, options, "partFile", part_file));
    TMOE_RETURN_IF_ERROR(read_offsets(env, options, "partOffset", part_offset));
    TMOE_RETURN_IF_ERROR(read_u32(env, options, "scaleFile", scale_file));
    TMOE_RETURN_IF_ERROR(read_offsets(env, options, "scaleOffset", scale_offset));
    const size_t count = stored.size();
    bool sound = half_head.size() == count && row_step.size() == count && column_step.size() == count && parts.size() == count;
    uint64_t total = 0, scaled = 0;
    for (size_t i = 0; sound && i < count; i++) {
        sound = dtype_info(stored[i]) != nullptr;
        total += parts[i];
        if (stored[i] == static_cast<uint32_t>(DType::MXFP4)) scaled += parts[i];
    }
    sound = sound && part_file.size() == total && part_offset.size() == total && scale_file.size() == scaled && scale_offset.size() == scaled;
    if (!sound) {
        return Status(StatusCode::VALIDATION_ERROR, "options: stored, halfHead, steps, parts, and places of parts and scales do not belong together").with("argument", "options");
    }
    size_t next = 0, next_scale = 0;
    for (size_t i = 0; i < count; i++) {
        GatheredTensor tensor{static_cast<DType>(stored[i]), half_head[i], row_step[i], column_step[i], {}, {}};
        for (uint32_t part = 0; part < parts[i]; part++, next++) {
            tensor.parts.push_back({part_file[next], part_offset[next]});
            if (tensor.stored != DType::MXFP4) continue;
            tensor.scales.push_back({scale_file[next_scale], scale_offset[next_scale]});
            next_scale++;
        }
        out.push_back(std::move(tensor));
    }
    return {};
}

// openGathered(path, {header, dataBytes, files, fileBytes, ...read_gathered})
Status open_gathered(Call& call, napi_value& result) {
    napi_env env = call.env;
    GatherRequest request;
    napi_value header = nullptr, files = nullptr;
    ArrayView view;
    int64_t data_bytes = 0;
    TMOE_RETURN_IF_ERROR(read_text(env, call.args[0], "path", request.path));
    TMOE_RETURN_IF_ERROR(require_object(env, call.args[1], "options"));
    TMOE_RETURN_IF_ERROR(read_integer(env, call.args[1], "options", "dataBytes", 0, kMostBytes, data_bytes));
    TMOE_RETURN_IF_ERROR(read_property(env, call.args[1], "files", files));
    TMOE_RETURN_IF_ERROR(read_texts(env, files, "options.files", request.files));
    TMOE_RETURN_IF_ERROR(read_offsets(env, call.args[1], "fileBytes", request.file_bytes));
    TMOE_RETURN_IF_ERROR(read_gathered(env, call.args[1], request.tensors));
    TMOE_RETURN_IF_ERROR(read_property(env, call.args[1], "header", header));
    TMOE_RETURN_IF_ERROR(read_typed_array(env, header, "options.header", napi_uint8_array, 0, view));
    if (request.files.size() != request.file_bytes.size()) {
        return Status(StatusCode::VALIDATION_ERROR, "options: files and fileBytes do not belong together").with("argument", "options");
    }
    request.data_bytes = static_cast<uint64_t>(data_bytes);
    request.header.assign(view.as<uint8_t>(), view.as<uint8_t>() + view.bytes);
    auto shared = std::make_shared<GatherRequest>(std::move(request));
    auto open = [shared](std::shared_ptr<GgufFile>& file) { return GgufFile::gather(std::move(*shared), file); };
    return start(call.environment, std::make_shared<OpenTask>(std::move(open)), {}, result);
}

// quantizedType({name, shape, type}, target, tied)
Status quantized_type(Call& call, napi_value& result) {
    napi_env env = call.env;
    GgufTensor tensor;
    DType type, target;
    napi_value shape = nullptr;
    uint32_t dimensions = 0;
    bool tied = false;
    TMOE_RETURN_IF_ERROR(require_object(env, call.args[0], "tensor"));
    TMOE_RETURN_IF_ERROR(read_text(env, call.args[0], "tensor", "name", tensor.name));
    TMOE_RETURN_IF_ERROR(read_dtype(env, call.args[0], "tensor", "type", type));
    TMOE_RETURN_IF_ERROR(read_property(env, call.args[0], "shape", shape));
    TMOE_RETURN_IF_ERROR(read_array(env, shape, "tensor.shape", dimensions));
    if (dimensions < 1 || dimensions > 4) return invalid_argument(env, "tensor.shape", "1 to 4 dimensions", shape);
    for (uint32_t i = 0; i < dimensions; i++) {
        napi_value item = nullptr;
        int64_t size = 0;
        TMOE_RETURN_IF_ERROR(read_element(env, shape, i, item));
        TMOE_RETURN_IF_ERROR(read_integer(env, item, "tensor.shape", 0, kMostBytes, size));
        tensor.shape.push_back(static_cast<uint64_t>(size));
    }
    TMOE_RETURN_IF_ERROR(read_quantised(env, call.args[1], "type", target));
    TMOE_RETURN_IF_ERROR(read_boolean(env, call.args[2], "tied", tied));
    tensor.type_id = static_cast<uint32_t>(type);
    result = js_text(env, dtype_info(quantised_type(tensor, target, tied)).name);
    return {};
}

class QuantiseTask : public Task {
  public:
    QuantiseTask(std::string from, std::string to, DType type, bool progress, CancelFlag cancel)
        : from_(std::move(from)), to_(std::move(to)), type_(type), progress_(progress), cancel_(std::move(cancel)) {}
    Status run(const Ticket& ticket) override {
        return quantise_gguf(from_, to_, type_, progress_sender(ticket, progress_), cancel_.get(), bytes_);
    }
    Status result(Environment& environment, napi_value, napi_value& value) override {
        if (napi_create_object(environment.env, &value) != napi_ok) return exception_pending();
        define(environment.env, value, "bytes", js_number(environment.env, static_cast<double>(bytes_)));
        return {};
    }
    void cancel() override { cancel_->store(true); }

  private:
    std::string from_, to_;
    DType type_;
    bool progress_;
    CancelFlag cancel_;
    uint64_t bytes_ = 0;
};

Status quantize_gguf(Call& call, napi_value& result) {
    napi_env env = call.env;
    std::string from, to;
    DType type;
    napi_value name = nullptr, on_progress = nullptr;
    CancelHandle* cancel = nullptr;
    Keep keep;
    TMOE_RETURN_IF_ERROR(read_text(env, call.args[0], "from", from));
    TMOE_RETURN_IF_ERROR(read_text(env, call.args[1], "to", to));
    TMOE_RETURN_IF_ERROR(require_object(env, call.args[2], "options"));
    TMOE_RETURN_IF_ERROR(read_property(env, call.args[2], "type", name));
    TMOE_RETURN_IF_ERROR(read_quantised(env, name, "options.type", type));
    TMOE_RETURN_IF_ERROR(read_property(env, call.args[2], "onProgress", on_progress));
    TMOE_RETURN_IF_ERROR(read_optional_function(env, on_progress, "options.onProgress", keep.progress));
    TMOE_RETURN_IF_ERROR(unwrap(call.environment, call.args[3], "cancel", cancel));
    auto task = std::make_shared<QuantiseTask>(std::move(from), std::move(to), type, keep.progress != nullptr, cancel->flag);
    return start(call.environment, std::move(task), keep, result);
}

Status close(Call& call, napi_value&) {
    GgufHandle* handle = nullptr;
    TMOE_RETURN_IF_ERROR(unwrap(call.environment, call.self, "this", handle));
    handle->close();
    return {};
}

}  // namespace

std::function<void(const LoadProgress&)> progress_sender(const Ticket& ticket, bool wanted) {
    if (!wanted) return nullptr;
    return [&ticket](const LoadProgress& progress) {
        ticket.progress([progress](napi_env env) {
            napi_value out = nullptr;
            if (napi_create_object(env, &out) != napi_ok) return out;
            define(env, out, "tensor", js_text(env, progress.tensor));
            define(env, out, "index", js_number(env, static_cast<double>(progress.index)));
            define(env, out, "count", js_number(env, static_cast<double>(progress.count)));
            define(env, out, "bytesDone", js_number(env, static_cast<double>(progress.bytes_done)));
            define(env, out, "bytesTotal", js_number(env, static_cast<double>(progress.bytes_total)));
            return out;
        });
    };
}

napi_status bind_gguf(Environment& environment, napi_value exports) {
    const Member members[] = {{"close", throwing<close>, nullptr}};
    napi_status status = define_class(environment, ClassId::Gguf, members, 1);
    if (status == napi_ok) status = export_function(environment.env, exports, "openGguf", promising<open_gguf>);
    if (status == napi_ok) status = export_function(environment.env, exports, "openGathered", promising<open_gathered>);
    if (status == napi_ok) status = export_function(environment.env, exports, "quantizedType", throwing<quantized_type>);
    if (status == napi_ok) status = export_function(environment.env, exports, "quantizeGguf", promising<quantize_gguf>);
    return status;
}

}  // namespace tmoe
