// The plain loops as the compiler's baseline has them (x86-64: SSE2; aarch64: Advanced SIMD): every processor runs these.
#include "primitives.hpp"
#include "tables.hpp"

namespace edgeface {
namespace {
#include "generic.inl"
}  // namespace

const Primitives scalar_primitives = EDGEFACE_GENERIC_TABLE("scalar");

}  // namespace edgeface
