#include "candle.hpp"
#include "numbers.hpp"
#include <algorithm>
#include <cmath>

namespace {

// What a kernel was launched with, by its place.
struct Parameters {
    void **at;
    size_t size(int i) const { return *(size_t *)at[i]; }
    uint32_t word(int i) const { return *(uint32_t *)at[i]; }
    double real(int i) const { return *(double *)at[i]; }
    void *pointer(int i) const { return *(void **)at[i]; }
    double scalar(Type type, int i) const { return read(type, at[i], 0); }
};

// Dimensions, and behind them the strides of one or more tensors; null where all are contiguous.
struct Layout {
    size_t rank;
    const size_t *dims;
    // Where element i of tensor `which` lies.
    size_t place(size_t i, int which = 0) const {
        if (!dims) return i;
        const size_t *strides = dims + (1 + which) * rank;
        size_t place = 0;
        for (size_t k = rank; k-- > 0; i /= dims[k]) place += i % dims[k] * strides[k];
        return place;
    }
};

Layout layout(const Parameters &p, int rank, int dims) { return {p.size(rank), (const size_t *)p.pointer(dims)}; }

using Binary = double (*)(double, double);
using Unary = double (*)(double);

const std::map<std::string, Binary> ARITHMETIC = {
    {"badd", [](double x, double y) { return x + y; }},
    {"bsub", [](double x, double y) { return x - y; }},
    {"bmul", [](double x, double y) { return x * y; }},
    {"bdiv", [](double x, double y) { return x / y; }},
    {"bmaximum", [](double x, double y) { return std::max(x, y); }},
    {"bminimum", [](double x, double y) { return std::min(x, y); }},
};
const std::map<std::string, Binary> COMPARISONS = {
    {"eq", [](double x, double y) { return double(x == y); }}, {"ne", [](double x, double y) { return double(x != y); }},
    {"lt", [](double x, double y) { return double(x < y); }},  {"le", [](double x, double y) { return double(x <= y); }},
    {"gt", [](double x, double y) { return double(x > y); }},  {"ge", [](double x, double y) { return double(x >= y); }},
};
const std::map<std::string, Unary> FUNCTIONS = {
    {"ucopy", [](double x) { return x; }},    {"uneg", [](double x) { return -x; }},  {"usqr", [](double x) { return x * x; }},
    {"usqrt", [](double x) { return sqrt(x); }}, {"uexp", [](double x) { return exp(x); }}, {"uabs", [](double x) { return fabs(x); }},
    {"urecip", [](double x) { return 1 / x; }}, {"utanh", [](double x) { return tanh(x); }}, {"ulog", [](double x) { return log(x); }},
    {"usin", [](double x) { return sin(x); }},  {"ucos", [](double x) { return cos(x); }},
};

void affine(Type type, Parameters p) {
    Layout in = layout(p, 1, 2);
    double scale = p.scalar(type, 5), shift = p.scalar(type, 6);
    for (size_t i = 0; i < p.size(0); i++) write(type, p.pointer(4), i, read(type, p.pointer(3), in.place(i)) * scale + shift);
}

void binary(Type type, Type to, Binary function, Parameters p) {
    Layout in = layout(p, 1, 2);
    for (size_t i = 0; i < p.size(0); i++) {
        write(to, p.pointer(5), i, function(read(type, p.pointer(3), in.place(i, 0)), read(type, p.pointer(4), in.place(i, 1))));
    }
}

void unary(Type type, Type to, Unary function, Parameters p) {
    Layout in = layout(p, 1, 2);
    const void *from = p.pointer(3) ? p.pointer(3) : p.pointer(4); // in place
    for (size_t i = 0; i < p.size(0); i++) write(to, p.pointer(4), i, function(read(type, from, in.place(i))));
}

// Sums, extremes or their places, of `length` elements in the order of the layout for each output.
void reduce(Type type, const std::string &kind, size_t outputs, Parameters p) {
    Layout in = layout(p, 2, 3);
    size_t length = p.size(1);
    double sign = kind.find("max") != kind.npos ? 1 : -1;
    for (size_t row = 0; row < outputs; row++) {
        double sum = 0, best = 0;
        size_t where = 0;
        for (size_t i = 0; i < length; i++) {
            double value = read(type, p.pointer(4), in.place(row * length + i));
            sum += value;
            if (i == 0 || sign * value > sign * best) best = value, where = i;
        }
        if (kind == "argmax" || kind == "argmin") write(Type::u32, p.pointer(5), row, where);
        else write(type, p.pointer(5), row, kind == "sum" ? sum : best);
    }
}

void where(Type type, Type condition, Parameters p) {
    Layout in = layout(p, 1, 2);
    for (size_t i = 0; i < p.size(0); i++) {
        int side = read(condition, p.pointer(3), in.place(i, 0)) != 0 ? 1 : 2;
        write(type, p.pointer(6), i, read(type, p.pointer(3 + side), in.place(i, side)));
    }
}

void index_select(Type type, Type index, Parameters p) {
    Layout of_indices = layout(p, 1, 2);
    size_t source = p.size(7), indices = p.size(8), right = p.size(9);
    for (size_t i = 0; i < p.size(0); i++) {
        size_t chosen = read(index, p.pointer(3), of_indices.place(i / right % indices));
        write(type, p.pointer(5), i, read(type, p.pointer(4), (i / (indices * right) * source + chosen) * right + i % right));
    }
}

void gather(Type type, Type index, Parameters p) {
    size_t source = p.size(5), indices = p.size(6), right = p.size(7);
    for (size_t i = 0; i < p.size(0); i++) {
        size_t chosen = read(index, p.pointer(1), i);
        write(type, p.pointer(3), i, read(type, p.pointer(2), (i / (indices * right) * source + chosen) * right + i % right));
    }
}

void copy_2d(Type type, Parameters p) {
    size_t bytes = bytes_of(type);
    for (size_t row = 0; row < p.word(2); row++) {
        memcpy((char *)p.pointer(1) + bytes * row * p.word(5), (char *)p.pointer(0) + bytes * row * p.word(4), bytes * p.word(3));
    }
}

void upsample_nearest(Type type, Parameters p) {
    size_t rows = p.size(0), columns = p.size(1);
    const size_t *dims = (const size_t *)p.pointer(4), *strides = dims + 4;
    for (size_t i = 0; i < dims[0] * dims[1] * rows * columns; i++) {
        size_t item = i / (rows * columns * dims[1]), channel = i / (rows * columns) % dims[1];
        size_t row = std::min(size_t(i / columns % rows * p.real(2)), dims[2] - 1);
        size_t column = std::min(size_t(i % columns * p.real(3)), dims[3] - 1);
        size_t from = item * strides[0] + channel * strides[1] + row * strides[2] + column * strides[3];
        write(type, p.pointer(6), i, read(type, p.pointer(5), from));
    }
}

} // namespace

bool run_candle(const std::string &name, void **parameters) {
    size_t last = name.rfind('_'), first = name.find('_');
    if (last == name.npos) return false;
    Type type = type_named(name.substr(last + 1));
    // cast_f32_f16, where_u8_f32: the first type, for kernels that have two.
    Type other = first < last ? type_named(name.substr(first + 1, last - first - 1)) : Type::none;
    std::string kind = name.substr(0, other == Type::none ? last : first);
    Parameters p{parameters};
    if (type == Type::none) return false;
    if (kind == "affine") affine(type, p);
    else if (kind == "cast") unary(other, type, FUNCTIONS.at("ucopy"), p);
    else if (ARITHMETIC.count(kind)) binary(type, type, ARITHMETIC.at(kind), p);
    else if (COMPARISONS.count(kind)) binary(type, Type::u8, COMPARISONS.at(kind), p);
    else if (FUNCTIONS.count(kind)) unary(type, type, FUNCTIONS.at(kind), p);
    else if (kind == "fast_sum_small") reduce(type, "sum", p.size(0), p);
    else if (kind.rfind("fast_", 0) == 0) reduce(type, kind.substr(5), p.size(0) / p.size(1), p);
    else if (kind == "where") where(type, other, p);
    else if (kind == "is") index_select(type, other, p);
    else if (kind == "gather") gather(type, other, p);
    else if (kind == "copy2d") copy_2d(type, p);
    else if (kind == "upsample_nearest2d") upsample_nearest(type, p);
    else if (kind == "fill") for (size_t i = 0; i < p.size(2); i++) write(type, p.pointer(0), i, p.scalar(type, 1));
    else if (kind == "const_set") for (size_t i = 0; i < p.size(0); i++) write(type, p.pointer(4), layout(p, 1, 2).place(i), p.scalar(type, 3));
    else return false;
    return true;
}
