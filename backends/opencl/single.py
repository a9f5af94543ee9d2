"""Functions of one float32, or of a vector of them, where the runtimes' own are not vectorised on every CPU.

Branch-free and without tables, so that a compiler makes them as wide as its registers. In the texts {F}, {I} and {N}
are float, int and uint of width {W}, which is nothing for a scalar. Products may be added unrounded, where the device
does that in one instruction. MEASURED_ULP holds the largest errors.
"""

from __future__ import annotations

# The largest errors over arguments of all sizes, in units in the last place of normal results, rounded up.
MEASURED_ULP = {"exp": 1.1, "expm1": 1.7, "tanh": 2.3, "log": 0.8, "log1p": 2.3, "erf": 1.5}

SINGLE_HELPERS = {
    # exp(x) = 2**n exp(r) with n = rint(x / ln 2), |r| <= ln(2) / 2, and the Taylor series of exp(r) - 1 to r**7, whose
    # remainder is below 2**-26. Adding and subtracting 1.5 * 2**23 rounds to an integer, and leaves it in the low bits.
    # ln 2 is split in two so that n times its first part is exact. 2**n is applied in halves, for subnormal results.
    "exp_parts": """\
{F} exp_parts{W}({F} x, {I} *n) {
    #pragma OPENCL FP_CONTRACT ON
    const {F} shifted = x * 1.44269504f + 12582912.0f, whole = shifted - 12582912.0f;
    const {F} r = (x - whole * 0.693359375f) - whole * -2.12194440e-4f;
    *n = as_{I}(shifted) - 0x4b400000;
    const {F} tail = 0.5f + r * (1.6666667e-1f + r * (4.1666668e-2f
                   + r * (8.3333338e-3f + r * (1.3888889e-3f + r * 1.9841270e-4f))));
    return r + r * r * tail;
}
""",
    "exp_single": """\
{F} exp_single{W}({F} x) {
    #pragma OPENCL FP_CONTRACT ON
    {I} n;
    const {F} inside = x > 90.0f ? ({F})(90.0f) : x < -105.0f ? ({F})(-105.0f) : x;
    const {F} part = 1.0f + exp_parts{W}(inside, &n);
    const {I} half_n = n >> 1;
    return part * as_{F}((half_n + 127) << 23) * as_{F}((n - half_n + 127) << 23);
}
""",
    "expm1_single": """\
{F} expm1_single{W}({F} x) {
    #pragma OPENCL FP_CONTRACT ON
    {I} n;
    const {F} inside = x > 90.0f ? ({F})(90.0f) : x < -20.0f ? ({F})(-20.0f) : x;
    const {F} part = exp_parts{W}(inside, &n);
    const {I} half_n = n >> 1;
    const {F} low = as_{F}((half_n + 127) << 23), high = as_{F}((n - half_n + 127) << 23);
    return x == 0.0f ? x : (part * low + (low - 1.0f / high)) * high;
}
""",
    # tanh(x) = e / (e + 2) with e = exp(2 x) - 1, for x >= 0; it is 1 from 9.02 on.
    "tanh_single": """\
{F} tanh_single{W}({F} x) {
    const {F} size = as_{F}(as_{N}(x) & 0x7fffffffu);
    const {F} e = expm1_single{W}(size > 10.0f ? ({F})(20.0f) : size + size);
    return as_{F}(as_{N}(e / (e + 2.0f)) | (as_{N}(x) & 0x80000000u));
}
""",
    # log(2**n (1 + f)) with 1 + f between the roots of 1/2 and 2. With s = f / (2 + f), log(1 + f) is the series
    # 2 (s + s**3 / 3 + s**5 / 5 + ...), arranged so that the leading f is exact; the terms left out are below 2**-28.
    "log_single": """\
{F} log_single{W}({F} x) {
    #pragma OPENCL FP_CONTRACT ON
    const {F} lifted = x < 1.17549435e-38f ? x * 8388608.0f : x;  /* subnormals */
    const {I} exponent = as_{I}(as_{N}(lifted) - 0x3f3504f3u) >> 23;
    const {F} n = convert_{F}(exponent) - (x < 1.17549435e-38f ? ({F})(23.0f) : ({F})(0.0f));
    const {F} f = as_{F}(as_{N}(lifted) - (as_{N}(exponent) << 23)) - 1.0f;
    const {F} s = f / (2.0f + f), z = s * s, half_square = 0.5f * f * f;
    const {F} tail = z * (0.66666667f + z * (0.4f + z * (0.28571429f + z * 0.22222222f)));
    const {F} low = s * (half_square + tail) + n * -2.12194440e-4f;
    const {F} result = n * 0.693359375f + (f - (half_square - low));
    return x > 0.0f ? (x < INFINITY ? result : x) : x == 0.0f ? ({F})(-INFINITY) : ({F})(NAN);
}
""",
    # With u = 1 + x rounded, log(1 + x) is log(u) x / (u - 1): what rounding lost of x is in the quotient (Kahan).
    "log1p_single": """\
{F} log1p_single{W}({F} x) {
    const {F} u = 1.0f + x, kept = u - 1.0f, log_u = log_single{W}(u);
    return kept == 0.0f ? x : x < 1e8f ? log_u * (x / kept) : log_u;
}
""",
    # Least-squares polynomials, weighted until the largest error is least: (erf(x) / x - 1) in x**2 up to 1, and beyond
    # that log(1 - erf(x)) in x up to 4, from where on erf is 1. Their own errors are below 2**-29.
    "erf_single": """\
{F} erf_single{W}({F} x) {
    #pragma OPENCL FP_CONTRACT ON
    const {F} size = as_{F}(as_{N}(x) & 0x7fffffffu), z = x * x, far = size > 4.0f ? ({F})(4.0f) : size;
    const {F} near = x + x * (0.128379166f + z * (-0.37612626f + z * (0.112836003f + z * (-0.0268544443f
                   + z * (0.00518953521f + z * (-0.000802084163f + z * 7.88912148e-05f))))));
    const {F} rest = exp_single{W}(-0.00025644165f + far * (-1.12742615f + far * (-0.637600005f + far * (-0.103566922f
                   + far * (0.0220520124f + far * (-0.00299954438f + far * 0.000191504529f))))));
    return size < 1.0f ? near : as_{F}(as_{N}(1.0f - rest) | (as_{N}(x) & 0x80000000u));
}
""",
}
SINGLE_NEEDS = {
    "exp_single": ("exp_parts",),
    "expm1_single": ("exp_parts",),
    "tanh_single": ("exp_parts", "expm1_single"),
    "log1p_single": ("log_single",),
    "erf_single": ("exp_parts", "exp_single"),
}
