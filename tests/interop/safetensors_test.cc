// The reader against a table of lies, and the writer against the reader.
#include "trainer/interop/safetensors.h"

#include <cstring>

#include "tests/interop/interop_fixture.h"

namespace cadre::interop {
namespace {

using testing::error_of;
using testing::TempFolder;

std::string length_of(uint64_t n) {
  std::string bytes;
  for (int i = 0; i < 8; ++i) bytes.push_back(char(n >> (8 * i)));
  return bytes;
}
std::string with_header(const std::string& header, size_t data_bytes) {
  return length_of(header.size()) + header + std::string(data_bytes, '\0');
}
std::string open_error(const std::string& bytes) {
  TempFolder folder;
  std::ofstream(folder / "x.safetensors", std::ios::binary) << bytes;
  return error_of(ExitCode::kData, [&] { SafetensorsFile file(folder / "x.safetensors"); });
}

constexpr const char* kGood = R"({"a":{"dtype":"F32","shape":[2,3],"data_offsets":[0,24]}})";

TEST(Safetensors, ReadsWhatThePublishedFormatSays) {
  EXPECT_EQ(open_error(with_header(kGood, 24)), "no error");
  EXPECT_EQ(open_error(with_header(std::string(kGood) + "   ", 24)), "no error")
      << "headers are padded with blanks";
  EXPECT_EQ(open_error(with_header(
                R"({"__metadata__":{"format":"pt"},"s":{"dtype":"F16","shape":[],"data_offsets":[0,2]},
                                   "z":{"dtype":"F32","shape":[0,4],"data_offsets":[2,2]}})",
                2)),
            "no error")
      << "scalars and empty tensors";
}

TEST(Safetensors, LiesEndInOneErrorThatNamesThem) {
  const std::string deep(2000000, '['), ffff(8, '\xff');
  struct Lie {
    const char* what;
    std::string bytes;
    const char* expected;
  };
  const auto one = [](const std::string& entry, size_t data) {
    return with_header("{\"a\":" + entry + "}", data);
  };
  const std::vector<Lie> lies = {
      {"nothing", "", "too short"},
      {"half a length", "\x10\0\0", "too short"},
      {"a length past the end", length_of(100) + "{}", "100 bytes"},
      {"the largest length", ffff + "{}", "18446744073709551615"},
      {"a header over the limit", length_of(100000001) + std::string(200, ' '), "100000001"},
      {"no JSON", with_header("hello", 0), "not a safetensors file"},
      {"cut JSON", with_header("{\"a\":", 0), "cannot be read"},
      {"bytes that are no UTF-8", with_header("{\"\xff\xfe\":1}", 0), "cannot be read"},
      {"a list", with_header("[1]", 0), "not a safetensors file"},
      {"deep nesting", with_header("{\"a\":" + deep, 0), "nested"},
      {"a name twice",
       with_header(R"({"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},
                                       "a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}})",
                   4),
       "twice"},
      {"a field twice", one(R"({"dtype":"F32","shape":[9],"shape":[1],"data_offsets":[0,4]})", 4), "twice"},
      {"no fields", one("{}", 0), "dtype"},
      {"a number for a tensor", one("7", 0), "dtype"},
      {"no shape", one(R"({"dtype":"F32","data_offsets":[0,4]})", 4), "shape"},
      {"one field more", one(R"({"dtype":"F32","shape":[1],"data_offsets":[0,4],"x":1})", 4), "other fields"},
      {"an unknown type", one(R"({"dtype":"F8_E4M3","shape":[4],"data_offsets":[0,4]})", 4), "F8_E4M3"},
      {"a type that is no text", one(R"({"dtype":32,"shape":[1],"data_offsets":[0,4]})", 4), "dtype"},
      {"a negative size", one(R"({"dtype":"F32","shape":[-1],"data_offsets":[0,4]})", 4), "-1"},
      {"a broken size", one(R"({"dtype":"F32","shape":[1.5],"data_offsets":[0,4]})", 4), "1.5"},
      {"a size past 64 bits",
       one(R"({"dtype":"F32","shape":[36893488147419103232],"data_offsets":[0,4]})", 4), "size"},
      {"a product that wraps around to 4 bytes",
       one(R"({"dtype":"F32","shape":[4294967296,4294967296,1],"data_offsets":[0,4]})", 4), "more elements"},
      {"a product larger than the file", one(R"({"dtype":"F32","shape":[8,8,8],"data_offsets":[0,8]})", 8),
       "more elements"},
      {"too many sizes", one(R"({"dtype":"F32","shape":[1,1,1,1,1,1,1,1,1],"data_offsets":[0,4]})", 4),
       "shape"},
      {"a shape that is no list", one(R"({"dtype":"F32","shape":1,"data_offsets":[0,4]})", 4), "shape"},
      {"one offset", one(R"({"dtype":"F32","shape":[1],"data_offsets":[4]})", 4), "data_offsets"},
      {"offsets backwards", one(R"({"dtype":"F32","shape":[1],"data_offsets":[4,0]})", 4), "4 bytes"},
      {"offsets past the end", one(R"({"dtype":"F32","shape":[1],"data_offsets":[4,8]})", 4), "offset"},
      {"too few bytes for the shape", one(R"({"dtype":"F32","shape":[2],"data_offsets":[0,4]})", 8),
       "8 bytes"},
      {"bytes that no tensor has", one(R"({"dtype":"F32","shape":[1],"data_offsets":[0,4]})", 5),
       "cut short"},
      {"a gap", one(R"({"dtype":"F32","shape":[1],"data_offsets":[4,8]})", 8), "gap"},
      {"two tensors over each other",
       with_header(R"({"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},
                                                      "b":{"dtype":"F32","shape":[1],"data_offsets":[4,8]}})",
                   8),
       "overlap"},
      {"metadata that is no map", with_header(R"({"__metadata__":7})", 0), "__metadata__"},
      {"metadata of numbers", with_header(R"({"__metadata__":{"a":7}})", 0), "__metadata__"},
  };
  for (const Lie& lie : lies) {
    const std::string error = open_error(lie.bytes);
    EXPECT_NE(error.find(lie.expected), std::string::npos) << lie.what << ": " << error.substr(0, 300);
    EXPECT_LT(error.size(), 500u) << lie.what << ": a stranger's text is not repeated at length";
  }
}

// Whatever byte of a good header changes, the file reads or is refused; nothing else happens.
TEST(Safetensors, AnyDamagedByteReadsOrIsRefused) {
  const std::string good = with_header(kGood, 24);
  int refused = 0;
  for (size_t at = 0; at < good.size() - 24; ++at) {
    for (const int change : {0x01, 0x20, 0x80}) {
      std::string bytes = good;
      bytes[at] = char(bytes[at] ^ change);
      refused += open_error(bytes) != "no error";
    }
  }
  EXPECT_GT(refused, 100);
  for (size_t size = 0; size < good.size(); ++size) EXPECT_NE(open_error(good.substr(0, size)), "no error");
}

TEST(Safetensors, ReadsBackWhatItWrites) {
  TempFolder folder;
  const std::vector<float> a = {1, -2.5f, 3}, b = {65504, -0.0f};
  std::vector<std::byte> a_bytes(12), b_bytes(4);
  encode(FloatFormat::kFloat32, a, a_bytes);
  encode(FloatFormat::kFloat16, b, b_bytes);
  SafetensorsWriter writer(folder / "x.safetensors", {{"b.first", FloatFormat::kFloat16, {2}},
                                                      {"a.second", FloatFormat::kFloat32, {3, 1}}});
  writer.write(b_bytes);
  writer.write(std::span(a_bytes).first(4));
  writer.write(std::span(a_bytes).subspan(4));
  writer.close();
  SafetensorsFile file(folder / "x.safetensors");
  EXPECT_EQ(testing::golden_tensor(file, "a.second"), a);
  EXPECT_EQ(testing::golden_tensor(file, "b.first"), b);
  std::vector<float> piece(2);
  file.read(file.tensors().at("a.second"), 1, piece);
  EXPECT_EQ(piece, (std::vector<float>{-2.5f, 3}));
  EXPECT_EQ(file.tensors().at("a.second").offset % 2, 0u);
}

}  // namespace
}  // namespace cadre::interop
