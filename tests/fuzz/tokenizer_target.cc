// tokenizer.json, behind a form feed its tokenizer_config.json, and text through what was loaded.
#include "data/tokenizer.h"
#include "tests/fuzz/targets.h"

void cadre::fuzz::tokenizer_target(std::string_view text) {
  const size_t cut = std::min(text.find('\f'), text.size());
  std::filesystem::remove(folder() / "tokenizer_config.json");
  if (cut < text.size()) write("tokenizer_config.json", text.substr(cut + 1));
  survive([&] {
    const auto tokenizer = data::load_tokenizer(write("tokenizer.json", text.substr(0, cut)));
    std::vector<int32_t> ids;
    tokenizer->encode("Hello, world! 123 \xc3\xa9\xff\n", ids);
    for (const int32_t id : ids)
      if (id < 0 || id >= tokenizer->vocab_size()) std::abort();  // would index past the embedding
    (void)tokenizer->decode(ids);
  });
}
