// The table of mixers.
#include "data/corpus.h"
#include "data/mixers/static_mixer.h"
#include "parallel/base/named_entry.h"

namespace cadre::data {

std::vector<double> normalised(std::vector<double> values) {
  double sum = 0;
  for (const double v : values) sum += v;
  for (double& v : values) v /= sum;
  return values;
}

MixerContext mixer_context(const Corpus& corpus, int64_t total_tokens) {
  MixerContext context{{}, std::vector<int64_t>(static_cast<size_t>(corpus.num_domains())), total_tokens};
  for (int k = 0; k < corpus.num_domains(); ++k) context.domains.push_back(corpus.domain_name(k));
  for (int64_t d = 0; d < corpus.num_documents(); ++d) {
    const DocumentInfo info = corpus.document(d);
    context.domain_tokens[static_cast<size_t>(info.domain)] += info.length - 1;
  }
  return context;
}

const std::vector<base::Entry<MixerMaker>>& mixer_table() {
  static const std::vector<base::Entry<MixerMaker>> table = {
      {"natural", "each domain by its size", make_natural},
      {"uniform", "every domain the same", make_uniform},
      {"temperature", "size to the power 1/tau, {tau}", make_temperature},
      {"unimax", "as uniform as a cap on epochs allows, {max_epochs}", make_unimax},
      {"file", "shares from a file of domain: number, {path}", make_from_file},
      {"utilimax", "utility of domains for tasks against concentration, {utility, max_epochs}",
       make_utilimax},
      {"gim", "influence on held-out text, with prior, caps and noise gate, {period, eta}", make_gim},
      {"doge", "alignment of domains' gradients with the target's, {mu, period}", make_doge},
      {"tikmix", "influence on all targets at once, none worse than the prior, {period}", make_tikmix},
      {"odm", "a bandit with training loss as reward", make_odm},
      {"ado", "learning speed by fitted scaling laws, {start, refit}", make_ado},
      {"learnability",
       "variance of the reward: prompts that are neither solved nor hopeless, {window, floor}",
       make_learnability},
      {"doremi", "loss above a reference model's: the proxy of DoReMi, {reference, eta, smoothing}",
       make_doremi},
      {"aioli", "short trial mixes and what they did to held-out loss, {every, rounds, steps}", make_aioli},
  };
  return table;
}

std::unique_ptr<Mixer> make_mixer(base::Section section, const MixerContext& context) {
  bool any = false;
  for (const int64_t tokens : context.domain_tokens) any = any || tokens > 0;
  require(any && context.total_tokens > 0, ExitCode::kData,
          "nothing to mix: {} domains without tokens, {} tokens to train", context.domain_tokens.size(),
          context.total_tokens);
  const std::string name = section.text("name", "natural");
  return base::find_entry(mixer_table(), "mixer", section, name).make(section, context);
}

}  // namespace cadre::data
