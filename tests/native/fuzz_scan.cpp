// Any number of rows, columns, probes and results, any bytes in them.
#include "fuzz.hpp"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
    Bytes bytes(data, size);
    const size_t rows = bytes.below(300), columns = bytes.below(200), queries = 1 + bytes.below(3), k = 1 + bytes.below(10);
    const auto templates = bytes.array<int8_t>(rows * columns), probes = bytes.array<int8_t>(queries * columns);
    const auto mask = bytes.array<uint8_t>(rows);
    const uint8_t* const allowed = bytes.bit() ? mask.get() : nullptr;
    std::vector<uint8_t> out(queries * k * (sizeof(int64_t) + sizeof(int32_t)));
    int64_t* indices = reinterpret_cast<int64_t*>(out.data());
    uint8_t* dots = out.data() + queries * k * sizeof(int64_t);
    same_on_all_tables(out.data(), out.size(), [&] {
        edgeface::scan_int8(templates.get(), rows, columns, probes.get(), queries, k, allowed, indices,
                            reinterpret_cast<int32_t*>(dots));
    });
    const size_t floats = columns / 4;
    const auto x = bytes.array<float>(rows * floats), probe = bytes.array<float>(queries * floats);
    same_on_all_tables(out.data(), out.size(), [&] {
        edgeface::scan_float32(x.get(), rows, floats, probe.get(), queries, k, allowed, indices,
                               reinterpret_cast<float*>(dots));
    });
    for (size_t i = 0; i < queries * k; ++i)
        if (indices[i] >= static_cast<int64_t>(rows) || (indices[i] >= 0 && allowed && !allowed[indices[i]])) std::abort();
    std::unique_ptr<float[]> unit(new float[rows * floats]);
    std::unique_ptr<int8_t[]> quantised(new int8_t[rows * floats]);
    edgeface::l2_normalize(x.get(), rows, floats, unit.get());
    for (size_t i = 0; i < rows * floats; ++i)
        if (!(std::fabs(unit[i]) <= 1.0001f)) std::abort();
    edgeface::quantize_templates(x.get(), rows * floats, 0.004f, quantised.get());
    return 0;
}
