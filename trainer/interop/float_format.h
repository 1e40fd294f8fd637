// The number formats of published weights, and the way from and to float. float holds every value of the other
// two, so decode followed by encode gives the same bytes, NaN payloads included.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>

namespace cadre::interop {

enum class FloatFormat { kFloat32, kBfloat16, kFloat16 };

int64_t size_of(FloatFormat format);  // bytes of one number
// By the names of safetensors ("F32", "BF16", "F16") and of config.json ("float32", "bfloat16", "float16").
// Both throw Error(kData) for any other.
FloatFormat format_from_tag(const std::string& tag, const std::string& where);
FloatFormat format_from_name(const std::string& name, const std::string& where);
const char* tag_of(FloatFormat format);
const char* name_of(FloatFormat format);

// bytes: little-endian, out.size() numbers.
void decode(FloatFormat format, std::span<const std::byte> bytes, std::span<float> out);
// Rounds to nearest, ties to even. Returns the place of the first finite value that the format cannot hold,
// which became infinite, or -1.
int64_t encode(FloatFormat format, std::span<const float> values, std::span<std::byte> out);

}  // namespace cadre::interop
