#include "napi/handles.h"

#include "napi/call.h"

namespace tmoe {

namespace {

// The second half is an address of this very library: objects of another build in the same process are foreign.
napi_type_tag tag_of(ClassId id) {
    return {0x7469657265646d00u + static_cast<uint64_t>(id), reinterpret_cast<uintptr_t>(&class_name)};
}

void finalize_handle(napi_env, void* data, void*) { delete static_cast<Handle*>(data); }

napi_value construct(napi_env env, napi_callback_info info) {
    Environment& environment = Environment::of(env);
    napi_value self = nullptr;
    size_t count = 0;
    napi_get_cb_info(env, info, &count, nullptr, &self, nullptr);
    std::unique_ptr<Handle> handle = std::move(environment.constructing);
    if (!handle || !self) {
        throw_status(environment, Status(StatusCode::VALIDATION_ERROR, "objects of this class are made by the addon only"));
        return nullptr;
    }
    const napi_type_tag tag = tag_of(handle->id());
    if (napi_type_tag_object(env, self, &tag) != napi_ok) return nullptr;
    if (napi_wrap(env, self, handle.get(), finalize_handle, nullptr, nullptr) != napi_ok) return nullptr;
    handle.release();
    return self;
}

}  // namespace

const char* class_name(ClassId id) {
    static const char* const names[kClasses] = {"NativeGguf", "NativeCancel", "NativeBackend", "NativeModel", "NativeSequence",
                                                "NativeReservation", "NativeExpertReader", "NativeExpertSlots", "NativePreparedCall"};
    return names[static_cast<uint32_t>(id)];
}

napi_status define_class(Environment& environment, ClassId id, const Member* members, size_t count) {
    std::vector<napi_property_descriptor> properties;
    for (size_t i = 0; i < count; i++) {
        napi_property_descriptor property = {};
        property.utf8name = members[i].name;
        property.method = members[i].method;
        property.getter = members[i].getter;
        property.attributes = static_cast<napi_property_attributes>(napi_enumerable | napi_configurable);
        properties.push_back(property);
    }
    // On the prototype, not through napi_define_class: V8 would check the receiver first and throw an error without a code.
    napi_env env = environment.env;
    napi_value constructor = nullptr, prototype = nullptr;
    napi_status status = napi_define_class(env, class_name(id), NAPI_AUTO_LENGTH, construct, nullptr, 0, nullptr, &constructor);
    if (status == napi_ok) status = napi_get_named_property(env, constructor, "prototype", &prototype);
    if (status == napi_ok) status = napi_define_properties(env, prototype, properties.size(), properties.data());
    if (status != napi_ok) return status;
    return napi_create_reference(env, constructor, 1, &environment.constructors[static_cast<uint32_t>(id)]);
}

Status wrap(Environment& environment, std::unique_ptr<Handle> handle, napi_value& out) {
    napi_value constructor = nullptr;
    napi_get_reference_value(environment.env, environment.constructors[static_cast<uint32_t>(handle->id())], &constructor);
    environment.constructing = std::move(handle);
    const napi_status status = constructor ? napi_new_instance(environment.env, constructor, 0, nullptr, &out) : napi_generic_failure;
    environment.constructing.reset();
    return status == napi_ok ? Status() : exception_pending();
}

Status unwrap(Environment& environment, napi_value value, ClassId id, const char* argument, Handle*& out) {
    const napi_type_tag tag = tag_of(id);
    napi_valuetype type = napi_undefined;
    bool matches = false;
    void* data = nullptr;
    if (value && napi_typeof(environment.env, value, &type) == napi_ok && type == napi_object &&
        napi_check_object_type_tag(environment.env, value, &tag, &matches) == napi_ok && matches &&
        napi_unwrap(environment.env, value, &data) == napi_ok && data) {
        out = static_cast<Handle*>(data);
        return {};
    }
    return invalid_argument(environment.env, argument, class_name(id), value);
}

}  // namespace tmoe
