#include "core/elementary.h"

#include <cmath>
#include <cstdint>

namespace tmoe {

namespace {

constexpr double kLn2 = 0.69314718055994530942;

}  // namespace

double log_of(double x) {
    int e = 0;
    double m = std::frexp(x, &e);
    if (m < 0.70710678118654752440) {
        m = m * 2;
        e = e - 1;
    }
    const double z = (m - 1) / (m + 1), square = z * z;
    double sum = 1.0 / 23;
    for (int n = 21; n >= 1; n -= 2) sum = std::fma(sum, square, 1.0 / n);
    return std::fma(static_cast<double>(e), kLn2, 2 * z * sum);
}

double exp_of(double x) {
    const double n = std::nearbyint(x / kLn2);
    const double r = std::fma(-n, kLn2, x);
    double sum = 1;
    for (int i = 14; i >= 1; i--) sum = std::fma(sum, r / i, 1.0);
    return std::ldexp(sum, static_cast<int>(n));
}

void sin_cos(double x, double& sine, double& cosine) {
    const double n = std::nearbyint(x * 0.63661977236758134308);
    double r = std::fma(-n, 1.57079632679489655800, x);
    r = std::fma(-n, 6.12323399573676603587e-17, r);
    r = std::fma(-n, -1.49738490485916983e-33, r);
    const double square = r * r;
    double s = 1, c = 1;
    for (int i = 16; i >= 2; i -= 2) s = std::fma(s, -square / (i * (i + 1.0)), 1.0);
    for (int i = 17; i >= 1; i -= 2) c = std::fma(c, -square / (i * (i + 1.0)), 1.0);
    s = s * r;
    switch (static_cast<int64_t>(n) & 3) {
        case 0: sine = s, cosine = c; break;
        case 1: sine = c, cosine = -s; break;
        case 2: sine = -s, cosine = -c; break;
        default: sine = -c, cosine = s; break;
    }
}

}  // namespace tmoe
