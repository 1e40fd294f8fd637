// GPT-2's alphabet (Radford et al. 2019): every byte is written as one printable character, so that a
// vocabulary of byte strings can stand in a JSON file.
#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <string_view>

namespace cadre::data {

// The code point that stands for each byte.
const std::array<uint32_t, 256>& byte_characters();

// The bytes that the characters of `token` stand for. Returns false when one of them stands for none.
bool bytes_of_token(std::string_view token, std::string& bytes);

}  // namespace cadre::data
