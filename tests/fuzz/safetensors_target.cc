// The header of a safetensors file and what it promises: every tensor that it names can be read.
#include "trainer/interop/safetensors.h"

#include "tests/fuzz/targets.h"

void cadre::fuzz::safetensors_target(std::string_view input) {
  // The input is header and tensors; the length comes first and is right unless the first byte says otherwise.
  if (input.size() < 2) return;
  const uint8_t first = uint8_t(input[0]);
  const std::string_view rest = input.substr(1);
  const size_t brace = rest.rfind('}');
  const uint64_t header = first % 16 == 0 || brace == std::string_view::npos ? first : brace + 1;
  std::string bytes;
  for (int i = 0; i < 8; ++i) bytes += char(header >> (8 * i));
  survive([&] {
    interop::SafetensorsFile file(write("model.safetensors", bytes + std::string(rest)));
    for (const auto& [name, tensor] : file.tensors()) {
      if (tensor.numel() < 0 || uint64_t(tensor.numel()) > input.size()) std::abort();
      std::vector<float> values(size_t(tensor.numel()));
      file.read(tensor, 0, values);
    }
  });
}
