// Status → JavaScript error, through the factory that lib/native.ts gives to `initialize`.
#pragma once
#include "core/status.h"
#include "napi/environment.h"

namespace tmoe {

/** A status that says that a JavaScript exception is pending already (a getter or a proxy threw): it is passed on as it is. */
Status exception_pending();

/** The typed error of a status. Where the factory is absent or itself throws: a plain Error with the code. Null only when no JavaScript can run. */
napi_value make_error(Environment& environment, const Status& status);

/** Throws the typed error of a status, unless an exception is pending. */
void throw_status(Environment& environment, const Status& status);

/** Takes the pending exception, or makes the status's error where there is none. */
napi_value take_error(Environment& environment, const Status& status);

}  // namespace tmoe
