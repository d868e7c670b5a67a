// Normalisation and camera colour as numbers.
#include "kernels.hpp"

namespace edgeface {

Colour make_colour(bool rgb, const double mean[3], const double deviation[3], double scale, bool bt709, bool full_range) {
    Colour colour{};
    colour.rgb = rgb;
    colour.full_range = full_range;
    for (int c = 0; c < 3; ++c) {
        const double spread = deviation[c] * scale;
        colour.factor[c] = static_cast<float>(1 / spread);
        colour.summand[c] = static_cast<float>(-mean[c] / spread);
    }
    // Luma coefficients of ITU-R BT.601-7 and BT.709-6.
    const double kr = bt709 ? 0.2126 : 0.299, kb = bt709 ? 0.0722 : 0.114, kg = 1 - kr - kb;
    const double luma = full_range ? 1.0 : 255.0 / 219, chroma = full_range ? 1.0 : 255.0 / 224;
    const double black = full_range ? 0.0 : 16.0;
    const double rows[3][2] = {{2 * (1 - kb) * chroma, 0.0},
                               {-2 * kb * (1 - kb) / kg * chroma, -2 * kr * (1 - kr) / kg * chroma},
                               {0.0, 2 * (1 - kr) * chroma}};
    for (int c = 0; c < 3; ++c) {
        colour.yuv[c][0] = static_cast<float>(luma);
        colour.yuv[c][1] = static_cast<float>(rows[c][0]);
        colour.yuv[c][2] = static_cast<float>(rows[c][1]);
        colour.yuv[c][3] = static_cast<float>(-luma * black - (rows[c][0] + rows[c][1]) * 128);
    }
    return colour;
}

}  // namespace edgeface
