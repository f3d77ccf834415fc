// Elementary functions in double, for tables and reports: fixed polynomials of the project's own, with the same bits everywhere.
// The kernels' functions of 16 floats are in cpu/math_simd.h.
#pragma once

namespace tmoe {

/** ln x for normal x > 0: x = m · 2^e with m in [√½, √2), ln m = 2 artanh((m-1)/(m+1)) as a series to z^23. */
double log_of(double x);
/** e^x for |x| < 700: x = n ln 2 + r, Taylor series to r^14. */
double exp_of(double x);
/** sin and cos of x ≥ 0: x = n π/2 + r with π/2 in three parts, Taylor series to r^17 and r^18. */
void sin_cos(double x, double& sine, double& cosine);

}  // namespace tmoe
