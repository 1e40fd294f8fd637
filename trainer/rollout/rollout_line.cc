#include "trainer/rollout/rollout_line.h"

#include <nlohmann/json.hpp>

namespace cadre::trainer {

std::string rollout_line(const Rollout& r, const data::Corpus& prompts, const data::Tokenizer& tokenizer,
                         const device::SampleShape& shape) {
  using Json = nlohmann::ordered_json;
  const auto cut = r.tokens.begin() + long(r.prompt_length);
  const std::vector<int32_t> prompt(r.tokens.begin(), cut), response(cut, r.tokens.end());
  const data::PromptInfo info = prompts.prompt(r.document);
  Json line = {
      {"group", r.group},
      {"sample", r.sample},
      {"document", r.document},
      {"domain", prompts.domain_name(r.domain)},
      {"level", r.level},
      {"prompt", tokenizer.decode(prompt)},
      {"response", tokenizer.decode(response)},
      {"answer", info.answer},
      {"reward", r.reward},
      {"failed", r.failed},
      {"finish", name_of(r.finish)},
      {"prompt_tokens", prompt},
      {"tokens", response},
      {"logp", r.logp},
      {"version", r.version},
      {"sampling", {{"temperature", shape.temperature}, {"top_k", shape.top_k}, {"top_p", shape.top_p}}}};
  if (!r.routing.empty()) line["routing"] = r.routing;
  return line.dump(-1, ' ', false, Json::error_handler_t::replace);
}

}  // namespace cadre::trainer
