// config.json of a published model; behind a form feed, the index that says which file has which tensor.
#include "tests/fuzz/targets.h"
#include "trainer/interop/hf_config.h"
#include "trainer/interop/hf_folder.h"

void cadre::fuzz::published_model_target(std::string_view text) {
  const size_t cut = std::min(text.find('\f'), text.size());
  write(interop::kConfigFile, text.substr(0, cut));
  write(interop::kWeightsIndexFile, text.substr(std::min(cut + 1, text.size())));
  survive([&] {
    const auto config = interop::read_config_json(folder());
    const interop::HfModel model = interop::read_hf_config(config, interop::kConfigFile);
    // What was understood can be said again, and means the same.
    const auto again = interop::write_hf_config(config, model, interop::FloatFormat::kBfloat16);
    if (interop::read_hf_config(again, interop::kConfigFile).model.dim != model.model.dim) std::abort();
  });
  survive([&] { (void)interop::HfWeights(folder()).bytes(); });
}
