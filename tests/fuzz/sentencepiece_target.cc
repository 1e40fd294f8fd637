// The part of a SentencePiece model that the project reads itself; the library's own parser is the library's.
#include "data/tokenizers/sentencepiece_model.h"
#include "tests/fuzz/targets.h"

void cadre::fuzz::sentencepiece_target(std::string_view input) {
  survive([&] {
    const data::IdentityModel model = data::with_identity_normalizer(std::string(input), "fuzz");
    // What was made has nothing left to replace.
    if (!data::with_identity_normalizer(model.model, "fuzz").replaced.empty()) std::abort();
  });
}
