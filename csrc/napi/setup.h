// The only include of napi.h, with the defines that it needs (the builds set the same ones).
// The bindings use the C functions of N-API: handles, scopes and errors stay visible, and a kernel call costs no wrapper objects.
#pragma once
#ifndef NAPI_VERSION
#define NAPI_VERSION 8
#endif
#ifndef NAPI_DISABLE_CPP_EXCEPTIONS
#define NAPI_DISABLE_CPP_EXCEPTIONS
#endif
#include <napi.h>
