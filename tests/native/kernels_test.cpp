// Every table of inner loops that this processor can run, against the golden cases of the numpy reference and against the
// plainest table on random inputs. Also counts allocations. Usage: kernels_test golden.bin [TABLE that must be present]...
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cmath>
#include <limits>
#include <new>
#include <random>

#include "golden.hpp"
#include "kernels.hpp"
#include "primitives.hpp"

using namespace edgeface;

namespace {
std::atomic<long> allocations{0};
int failures = 0;
std::string where;

void expect(bool holds, const char* what) {  // no std::string: it would count as an allocation
    if (holds) return;
    ++failures;
    std::fprintf(stderr, "FAILED %s: %s\n", where.c_str(), what);
}

void expect_bytes(const void* got, const std::vector<uint8_t>& want, const char* what) {
    if (want.empty() || std::memcmp(got, want.data(), want.size()) == 0) return;
    expect(false, (std::string(what) + " differs from the reference").c_str());
}
}  // namespace

// The sanitizers replace these themselves, so the count is taken in plain builds only.
#if !defined(__SANITIZE_ADDRESS__)
void* operator new(size_t bytes) {
    ++allocations;
    if (void* memory = std::malloc(bytes ? bytes : 1)) return memory;
    throw std::bad_alloc();
}
void operator delete(void* memory) noexcept { std::free(memory); }
void operator delete(void* memory, size_t) noexcept { std::free(memory); }
#endif

namespace {

// The parameters that letterbox and align cases begin with; see make_golden.py.
struct Pixels {
    Frame frame;
    Tensor tensor;
    Colour colour;
    size_t bytes;  // of one tensor

    explicit Pixels(const golden::Case& one) {
        frame = {one.as<uint8_t>(0), one.integer(3), one.integer(1), one.integer(2), PixelFormat(one.integer(0))};
        tensor = {nullptr, one.integer(4), one.integer(5), ElementType(one.integer(6)), one.integer(7) != 0};
        colour = make_colour(one.integer(8) != 0, &one.parameters[12], &one.parameters[15], one.parameters[11],
                             one.integer(9) != 0, one.integer(10) != 0);
        const size_t width = tensor.type == ElementType::float32 ? 4 : tensor.type == ElementType::float16 ? 2 : 1;
        bytes = static_cast<size_t>(tensor.height) * tensor.width * 3 * width;
    }
};

constexpr size_t kAfterCommon = 18;

void check_letterbox(const golden::Case& one) {
    Pixels pixels(one);
    std::vector<uint8_t> out(pixels.bytes);
    pixels.tensor.data = out.data();
    const size_t p = kAfterCommon;
    const Place place = {one.integer(p), one.integer(p + 1), one.integer(p + 2), one.integer(p + 3),
                         static_cast<float>(one.parameters[p + 4])};
    letterbox(pixels.frame, pixels.tensor, place, pixels.colour);
    expect_bytes(out.data(), one.arrays[1], "letterbox");
    const long before = allocations;
    letterbox(pixels.frame, pixels.tensor, place, pixels.colour);
    expect(allocations == before, "letterbox allocates in its second call");
}

void check_align(const golden::Case& one) {
    Pixels pixels(one);
    const int faces = one.integer(kAfterCommon);
    const size_t crop_bytes = static_cast<size_t>(pixels.tensor.height) * pixels.tensor.width * 3;
    std::vector<uint8_t> out(pixels.bytes * faces), crops(one.arrays.size() > 4 ? crop_bytes * faces : 0);
    std::vector<double> matrices(6 * faces);
    const int points = static_cast<int>(one.arrays[2].size() / 2 / sizeof(double));
    similarity_transforms(one.as<float>(1), faces, points, one.as<double>(2), matrices.data());
    long before = 0;
    for (int face = 0; face < faces; ++face) {
        pixels.tensor.data = out.data() + face * pixels.bytes;
        align(pixels.frame, &matrices[6 * face], pixels.tensor, pixels.colour,
              crops.empty() ? nullptr : crops.data() + face * crop_bytes);
        if (face > 0) expect(allocations == before, "align allocates in its second call");
        before = allocations;
    }
    expect_bytes(out.data(), one.arrays[3], "align");
    if (!crops.empty()) expect_bytes(crops.data(), one.arrays[4], "align's crops");
}

void check_decode(const golden::Case& one) {
    const int height = one.integer(0), width = one.integer(1), anchors = one.integer(2);
    const size_t per_map = anchors == 1 ? 4 : 3, want = static_cast<size_t>(one.integer(7));
    DetectorMap maps[3];
    for (int m = 0; m < 3; ++m) {
        const int stride = 8 << m;
        const size_t first = m * per_map;
        maps[m] = {one.as<float>(first), anchors == 1 ? one.as<float>(first + 1) : nullptr,
                   one.as<float>(first + per_map - 2), one.as<float>(first + per_map - 1),
                   (height + stride - 1) / stride, (width + stride - 1) / stride, stride, anchors};
    }
    const DetectorOptions options = {static_cast<float>(one.parameters[3]), static_cast<float>(one.parameters[4]),
                                     static_cast<size_t>(one.integer(5)), static_cast<size_t>(one.integer(6))};
    const Detection* faces = nullptr;
    const size_t found = decode(maps, 3, options, &faces);
    expect(found == want, "decode finds another number of faces");
    const size_t first = 3 * per_map;
    for (size_t i = 0; i < std::min(found, want); ++i) {
        expect(std::memcmp(faces[i].box, one.as<float>(first) + 4 * i, 16) == 0, "a box differs");
        expect(faces[i].score == one.as<float>(first + 1)[i], "a score differs");
        expect(std::memcmp(faces[i].landmarks, one.as<float>(first + 2) + 10 * i, 40) == 0, "landmarks differ");
    }
    const long before = allocations;
    decode(maps, 3, options, &faces);
    expect(allocations == before, "decode allocates in its second call");
}

void check_scan(const golden::Case& one, bool integers) {
    const size_t rows = one.integer(0), columns = one.integer(1), queries = one.integer(2), k = one.integer(3);
    std::vector<int64_t> indices(queries * k);
    std::vector<int32_t> dots(queries * k);
    std::vector<float> cosines(queries * k);
    for (int turn = 0; turn < 2; ++turn) {
        const long before = allocations;
        if (integers)
            scan_int8(one.as<int8_t>(0), rows, columns, one.as<int8_t>(1), queries, k, one.as<uint8_t>(2), indices.data(),
                      dots.data());
        else
            scan_float32(one.as<float>(0), rows, columns, one.as<float>(1), queries, k, one.as<uint8_t>(2),
                         indices.data(), cosines.data());
        expect(turn == 0 || allocations == before, "scan allocates in its second call");
    }
    expect_bytes(indices.data(), one.arrays[3], "a scan's rows");
    if (integers) return expect_bytes(dots.data(), one.arrays[4], "a scan's dot products");
    for (size_t i = 0; i < cosines.size(); ++i) {
        const float want = one.as<float>(4)[i];
        expect(cosines[i] == want || std::fabs(cosines[i] - want) < 1e-6f, "a float scan is further than 1e-6 off");
    }
}

void check_templates(const golden::Case& one) {
    const size_t rows = one.integer(0), columns = one.integer(1);
    std::vector<float> unit(rows * columns);
    std::vector<int8_t> int8(rows * columns);
    l2_normalize(one.as<float>(0), rows, columns, unit.data());
    expect_bytes(unit.data(), one.arrays[1], "l2_normalize");
    quantize_templates(unit.data(), unit.size(), static_cast<float>(one.parameters[2]), int8.data());
    expect_bytes(int8.data(), one.arrays[2], "quantize_templates");
}

void check_quality(const golden::Case& one) {
    const Quality found = quality(one.as<uint8_t>(0), one.integer(0), one.integer(1), true);
    const float got[3] = {static_cast<float>(found.sharpness), static_cast<float>(found.exposure),
                          static_cast<float>(found.contrast)};
    expect_bytes(got, one.arrays[1], "a quality measure");
}

template <typename Call>
void same_on_all_tables(const char* what, std::vector<uint8_t>& out, Call call) {
    use_primitives("scalar");
    call();
    const std::vector<uint8_t> want = out;
    for (const char* const* name = available_primitives(); *name; ++name) {
        std::fill(out.begin(), out.end(), uint8_t{0xa5});
        use_primitives(*name);
        where = std::string(*name) + ", random " + what;
        call();
        expect_bytes(out.data(), want, what);
    }
}

// Bytes between two pages that cannot be touched: a load past either end ends the test, under qemu too.
class Guarded {
public:
    Guarded(size_t bytes, bool at_end) {
        const size_t page = static_cast<size_t>(sysconf(_SC_PAGESIZE)), inner = (bytes + page - 1) / page * page;
        all_ = inner + 2 * page;
        memory_ = static_cast<uint8_t*>(mmap(nullptr, all_, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
        if (memory_ == MAP_FAILED || mprotect(memory_, page, PROT_NONE) != 0 ||
            mprotect(memory_ + page + inner, page, PROT_NONE) != 0)
            std::abort();
        data = memory_ + page + (at_end ? inner - bytes : 0);
    }
    ~Guarded() { munmap(memory_, all_); }
    Guarded(const Guarded&) = delete;
    Guarded& operator=(const Guarded&) = delete;

    uint8_t* data;

private:
    uint8_t* memory_;
    size_t all_;
};

// Sizes that leave every vector loop a rest, frames between guard pages, rows turned round.
void check_random() {
    std::mt19937 random(20261123);
    const auto below = [&](int n) { return static_cast<int>(random() % static_cast<unsigned>(n)); };
    const double mean[3] = {127.5, 104, 117}, deviation[3] = {127.5, 58, 64};
    for (int turn = 0; turn < 150; ++turn) {
        const bool four = turn % 3 == 0, flipped = turn % 5 == 0;
        const int channels = four ? 4 : 3, height = 1 + below(60), width = 1 + below(90);
        const int stride = width * channels + (turn % 2 ? below(7) : 0);
        const size_t bytes = static_cast<size_t>(height - 1) * stride + width * channels;
        const Guarded pixels(bytes, turn % 7 != 0);
        for (size_t i = 0; i < bytes; ++i) pixels.data[i] = static_cast<uint8_t>(random());
        Frame frame = {pixels.data, stride, height, width, four ? PixelFormat::bgra : PixelFormat::bgr};
        if (flipped) {
            frame.data += static_cast<ptrdiff_t>(height - 1) * stride;
            frame.stride = -stride;
        }
        const int high = 1 + below(50), wide = 1 + below(50);
        const ElementType type = ElementType(turn % 3);
        std::vector<uint8_t> out(static_cast<size_t>(high) * wide * 3 * (type == ElementType::float32 ? 4 : type == ElementType::float16 ? 2 : 1));
        const Tensor tensor = {out.data(), high, wide, type, turn % 4 == 0};
        const Colour colour = make_colour(turn % 2, mean, deviation, type == ElementType::int8 ? 0.01 : 1.0, false, false);
        Place place = {1 + below(high), 1 + below(wide), 0, 0, 114};
        place.top = below(high - place.height + 1);
        place.left = below(wide - place.width + 1);
        same_on_all_tables("letterbox", out, [&] { letterbox(frame, tensor, place, colour); });
        const double size = std::pow(10.0, below(5) - 2), angle = below(628) / 100.0;
        const double a = size * std::cos(angle), b = size * std::sin(angle);
        const double matrix[6] = {a, -b, wide / 2.0 - a * below(width) + b * below(height), b, a, high / 2.0 - a * below(height)};
        same_on_all_tables("align", out, [&] { align(frame, matrix, tensor, colour, nullptr); });
    }
    for (int turn = 0; turn < 60; ++turn) {
        const size_t rows = 3 + below(600), columns = 1 + below(300), queries = 1 + below(3), k = 1 + below(9);
        const Guarded templates(rows * columns, true);
        std::vector<int8_t> probes(queries * columns);
        for (size_t i = 0; i < rows * columns; ++i) templates.data[i] = static_cast<uint8_t>(random());
        for (int8_t& value : probes) value = turn % 4 ? static_cast<int8_t>(random()) : int8_t{-128};
        std::vector<int64_t> indices(queries * k);
        std::vector<uint8_t> out(queries * k * 4);
        same_on_all_tables("scan_int8", out, [&] {
            scan_int8(reinterpret_cast<const int8_t*>(templates.data), rows, columns, probes.data(), queries, k, nullptr, indices.data(),
                      reinterpret_cast<int32_t*>(out.data()));
        });
        std::vector<float> floats(rows * columns);
        for (float& value : floats) value = static_cast<float>(below(2001) - 1000) / 1000;
        same_on_all_tables("scan_float32", out, [&] {
            scan_float32(floats.data(), rows, columns, floats.data(), queries, k, nullptr, indices.data(),
                         reinterpret_cast<float*>(out.data()));
        });
    }
}

// The whole range of the number, through the scalar half conversion and the hardware's.
void check_halves() {
    std::vector<float> values;
    for (uint32_t bits = 0; bits < 0x7f800000u - 4099; bits += 4099) {
        float value;
        std::memcpy(&value, &bits, 4);
        values.push_back(value);
        values.push_back(-value);
    }
    std::vector<uint8_t> out(values.size() * 2);
    same_on_all_tables("to_float16", out, [&] {
        primitives().to_float16(values.data(), reinterpret_cast<uint16_t*>(out.data()), values.size());
    });
}

}  // namespace

int main(int count, char** arguments) {
    if (count < 2) {
        std::fprintf(stderr, "usage: kernels_test golden.bin [TABLE]...\n");
        return 2;
    }
    for (int i = 2; i < count; ++i) {
        where = arguments[i];
        expect(use_primitives(arguments[i]), "this processor lacks it");
    }
    const std::vector<golden::Case> cases = golden::read(arguments[1]);
    int tables = 0;
    for (const char* const* name = available_primitives(); *name; ++name, ++tables) {
        use_primitives(*name);
        for (size_t i = 0; i < cases.size(); ++i) {
            const golden::Case& one = cases[i];
            where = std::string(*name) + ", case " + std::to_string(i);
            switch (one.kernel) {
                case 1: check_letterbox(one); break;
                case 2: check_align(one); break;
                case 3: check_decode(one); break;
                case 4: check_scan(one, true); break;
                case 5: check_scan(one, false); break;
                case 6: check_templates(one); break;
                case 7: check_quality(one); break;
                default: expect(false, "of no known kernel");
            }
        }
    }
    check_random();
    check_halves();
    std::printf("%zu cases on %d tables:", cases.size(), tables);
    for (const char* const* name = available_primitives(); *name; ++name) std::printf(" %s", *name);
    std::printf("; %d failures\n", failures);
    return failures ? 1 : 0;
}
