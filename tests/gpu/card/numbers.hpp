// Elements of tensors, read and written as numbers.
#pragma once
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <map>
#include <string>

enum class Type { f32, f64, f16, bf16, u8, u32, i64, none };

inline size_t bytes_of(Type type) {
    switch (type) {
    case Type::u8: return 1;
    case Type::f16:
    case Type::bf16: return 2;
    case Type::f32:
    case Type::u32: return 4;
    default: return 8;
    }
}

// As candle's kernels are called: affine_f32.
inline Type type_named(const std::string &name) {
    static const std::map<std::string, Type> types = {
        {"f32", Type::f32}, {"f64", Type::f64}, {"f16", Type::f16}, {"bf16", Type::bf16},
        {"u8", Type::u8},   {"u32", Type::u32}, {"i64", Type::i64},
    };
    auto found = types.find(name);
    return found == types.end() ? Type::none : found->second;
}

template <class To, class From> To bits(From from) {
    static_assert(sizeof(To) == sizeof(From));
    To to;
    memcpy(&to, &from, sizeof to);
    return to;
}

inline float brain_to_float(uint16_t brain) { return bits<float>((uint32_t)brain << 16); }

// To the nearest, ties to even.
inline uint16_t float_to_brain(float value) {
    if (value != value) return 0x7fc0;
    uint32_t word = bits<uint32_t>(value);
    return (word + 0x7fff + ((word >> 16) & 1)) >> 16;
}

inline double read(Type type, const void *elements, size_t i) {
    switch (type) {
    case Type::f32: return ((const float *)elements)[i];
    case Type::f64: return ((const double *)elements)[i];
    case Type::f16: return ((const _Float16 *)elements)[i];
    case Type::bf16: return brain_to_float(((const uint16_t *)elements)[i]);
    case Type::u8: return ((const uint8_t *)elements)[i];
    case Type::u32: return ((const uint32_t *)elements)[i];
    default: return ((const int64_t *)elements)[i];
    }
}

inline void write(Type type, void *elements, size_t i, double value) {
    switch (type) {
    case Type::f32: ((float *)elements)[i] = value; break;
    case Type::f64: ((double *)elements)[i] = value; break;
    case Type::f16: ((_Float16 *)elements)[i] = (float)value; break;
    case Type::bf16: ((uint16_t *)elements)[i] = float_to_brain(value); break;
    case Type::u8: ((uint8_t *)elements)[i] = value; break;
    case Type::u32: ((uint32_t *)elements)[i] = value; break;
    default: ((int64_t *)elements)[i] = value; break;
    }
}
