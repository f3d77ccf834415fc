// GGUF files: opening one (its header becomes plain JavaScript data) and writing a quantised one.
#include "core/gguf_quantize.h"
#include "napi/bindings.h"
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

napi_value tensor_info(napi_env env, const GgufTensor& tensor) {
    napi_value info = nullptr, shape = nullptr;
    if (napi_create_object(env, &info) != napi_ok || napi_create_array_with_length(env, tensor.shape.size(), &shape) != napi_ok) return nullptr;
    for (size_t i = 0; i < tensor.shape.size(); i++)
        napi_set_element(env, shape, static_cast<uint32_t>(i), js_number(env, static_cast<double>(tensor.shape[i])));
    define(env, info, "name", js_text(env, tensor.name));
    define(env, info, "type", js_text(env, gguf_type_name(tensor.type_id)));
    define(env, info, "shape", shape);
    define(env, info, "bytes", js_number(env, static_cast<double>(tensor.bytes)));
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
    TMOE_RETURN_IF_ERROR(make_array(env, file.tensors().size(), tensors, [&](size_t i) { return tensor_info(env, file.tensors()[i]); }));
    define(env, object, "path", js_text(env, file.path()));
    define(env, object, "version", js_number(env, file.version()));
    define(env, object, "fileBytes", js_number(env, static_cast<double>(file.file_bytes())));
    define(env, object, "metadata", metadata);
    define(env, object, "tensors", tensors);
    return {};
}

class OpenTask : public Task {
  public:
    explicit OpenTask(std::string path) : path_(std::move(path)) {}
    Status run(const Ticket&) override { return GgufFile::open(path_, file_); }
    Status result(Environment& environment, napi_value, napi_value& value) override {
        auto handle = std::make_unique<GgufHandle>(environment.env, file_);
        TMOE_RETURN_IF_ERROR(wrap(environment, std::move(handle), value));
        const Status status = describe_file(environment.env, *file_, value);
        file_.reset();
        return status;
    }

  private:
    std::string path_;
    std::shared_ptr<GgufFile> file_;
};

Status open_gguf(Call& call, napi_value& result) {
    std::string path;
    TMOE_RETURN_IF_ERROR(read_text(call.env, call.args[0], "path", path));
    return start(call.environment, std::make_shared<OpenTask>(std::move(path)), {}, result);
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
    std::string from, to, type;
    napi_value on_progress = nullptr;
    CancelHandle* cancel = nullptr;
    Keep keep;
    TMOE_RETURN_IF_ERROR(read_text(env, call.args[0], "from", from));
    TMOE_RETURN_IF_ERROR(read_text(env, call.args[1], "to", to));
    TMOE_RETURN_IF_ERROR(require_object(env, call.args[2], "options"));
    TMOE_RETURN_IF_ERROR(read_text(env, call.args[2], "options", "type", type));
    TMOE_RETURN_IF_ERROR(read_property(env, call.args[2], "onProgress", on_progress));
    TMOE_RETURN_IF_ERROR(read_optional_function(env, on_progress, "options.onProgress", keep.progress));
    TMOE_RETURN_IF_ERROR(unwrap(call.environment, call.args[3], "cancel", cancel));
    if (type != "Q8_0" && type != "Q4_0") {
        return Status(StatusCode::VALIDATION_ERROR, "options.type: expected Q8_0 or Q4_0, got " + type)
            .with("argument", "options.type")
            .with("expected", "Q8_0 or Q4_0")
            .with("actual", type);
    }
    auto task = std::make_shared<QuantiseTask>(std::move(from), std::move(to), type == "Q8_0" ? DType::Q8_0 : DType::Q4_0,
                                               keep.progress != nullptr, cancel->flag);
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
    if (status == napi_ok) status = export_function(environment.env, exports, "quantizeGguf", promising<quantize_gguf>);
    return status;
}

}  // namespace tmoe
