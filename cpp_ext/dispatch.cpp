// Which table of inner loops this processor can run, and which one is in use.
#include <atomic>
#include <cstdlib>
#include <cstring>

#include "tables.hpp"

#if defined(__aarch64__)
#include <sys/auxv.h>
#endif

namespace edgeface {
namespace {

struct Available {
    const Primitives* tables[8] = {};
    const char* names[8] = {};
    int count = 0;

    void add(const Primitives& table) {
        tables[count] = &table;
        names[count++] = table.name;
    }

    Available() {
        add(scalar_primitives);
#if defined(__x86_64__)
        // These calls also ask the operating system, through XGETBV, whether it saves the wide registers.
        __builtin_cpu_init();
        if (__builtin_cpu_supports("avx2") && has_f16c()) {
            add(avx2_primitives);
#if defined(EDGEFACE_AVXVNNI)
            if (has_avxvnni()) add(avxvnni_primitives());
#endif
            if (__builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl") &&
                __builtin_cpu_supports("avx512vnni"))
                add(avx512vnni_primitives());
        }
#elif defined(__aarch64__)
        add(neon_primitives);
        constexpr unsigned long asimddp = 1ul << 20;  // HWCAP_ASIMDDP of Linux's asm/hwcap.h
        if (getauxval(AT_HWCAP) & asimddp) add(dotprod_primitives);
#endif
    }

#if defined(__x86_64__)
    // Compilers before GCC 11 do not know these names, so CPUID is asked directly.
    static bool has_f16c();
    static bool has_avxvnni();
#endif
};

#if defined(__x86_64__)
void cpuid(unsigned leaf, unsigned subleaf, unsigned out[4]) {
    __asm__("cpuid" : "=a"(out[0]), "=b"(out[1]), "=c"(out[2]), "=d"(out[3]) : "a"(leaf), "c"(subleaf));
}

bool Available::has_f16c() {
    unsigned leaf[4];
    cpuid(1, 0, leaf);
    return leaf[2] >> 29 & 1;
}

bool Available::has_avxvnni() {
    unsigned leaf[4];
    cpuid(0, 0, leaf);
    if (leaf[0] < 7) return false;
    cpuid(7, 1, leaf);
    return leaf[0] >> 4 & 1;
}
#endif

const Available& available() {
    static const Available found;
    return found;
}

const Primitives* named(const char* name) {
    for (int i = 0; i < available().count; ++i)
        if (std::strcmp(available().names[i], name) == 0) return available().tables[i];
    return nullptr;
}

const Primitives* first_choice() {
    // An unknown name falls back to the plainest table; the Python module looks at the variable and raises before.
    const char* wanted = std::getenv("EDGEFACE_SIMD");
    if (wanted && *wanted) {
        const Primitives* table = named(wanted);
        return table ? table : &scalar_primitives;
    }
    return available().tables[available().count - 1];
}

std::atomic<const Primitives*>& current() {
    static std::atomic<const Primitives*> table{first_choice()};
    return table;
}

}  // namespace

const Primitives& primitives() { return *current().load(std::memory_order_relaxed); }

const char* const* available_primitives() { return available().names; }

bool use_primitives(const char* name) {
    const Primitives* table = named(name);
    if (table) current().store(table, std::memory_order_relaxed);
    return table != nullptr;
}

}  // namespace edgeface
