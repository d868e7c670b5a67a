// Normalisation and camera colour as numbers.
#include <cmath>

#include "kernels.hpp"

namespace edgeface {

Colour make_colour(bool rgb, const double mean[3], const double deviation[3], double scale, bool bt709, bool full_range) {
    Colour colour{};
    colour.rgb = rgb;
    for (int c = 0; c < 3; ++c) {
        const double spread = deviation[c] * scale;
        colour.factor[c] = static_cast<float>(1 / spread);
        colour.summand[c] = static_cast<float>(-mean[c] / spread);
    }
    // Luma coefficients of ITU-R BT.601-7 and BT.709-6.
    const double kr = bt709 ? 0.2126 : 0.299, kb = bt709 ? 0.0722 : 0.114, kg = 1 - kr - kb;
    const double luma = full_range ? 1.0 : 255.0 / 219, chroma = full_range ? 1.0 : 255.0 / 224;
    const double red = 2 * (1 - kr) * chroma, blue = 2 * (1 - kb) * chroma;
    const auto fixed = [](double factor) { return static_cast<int16_t>(std::floor(factor * 8192 + 0.5)); };
    colour.camera = {fixed(2 * luma),      fixed(red),  fixed(-blue * kb / kg), fixed(-red * kr / kg),
                     fixed(blue), static_cast<uint8_t>(full_range ? 0 : 16)};
    return colour;
}

}  // namespace edgeface
