#include "trainer/selection/gradient_model.h"

#include <algorithm>

#include "trainer/run/text_gradient.h"

namespace cadre::trainer {
namespace {

// The run of the checkpoint as one that only differentiates: plain cross entropy, nothing that moves the data.
RunConfig still(const ScoreInputs& in) {
  RunConfig config = *in.config;
  // reset() and not an assignment, which would write through to the other configuration.
  for (YAML::Node* node : {&config.mixer, &config.curriculum, &config.selector, &config.objective})
    node->reset();
  config.influence.period = 0;
  config.data.prefetch = 0;
  config.train.global_batch = config.train.micro_batch;
  config.data.pack = false;  // nothing is planned
  return config;
}

// Training text for the state's feed, which is never asked for a batch.
std::unique_ptr<data::Corpus> unread_text() {
  return data::make_memory_corpus({"none"}, {{0, {0, 1}, 1}});
}

}  // namespace

GradientModel::GradientModel(const ScoreInputs& inputs) {
  require(inputs.corpus->kind() != data::SetKind::kPrompts, ExitCode::kUsage,
          "prompts have no answers whose gradient could be taken; score them with --kind pass_rate");
  dataset_.train = unread_text();
  dataset_.vocab = inputs.config->model.vocab;
  state_ = std::make_unique<TrainState>(still(inputs), dataset_, *inputs.world);
  require(state_->model.queue.kind() == device::DeviceKind::kCpu, ExitCode::kUsage,
          "gradients are scored on the CPU only in this version");
  restore_model(state_->model, *inputs.reader);
  restore_optimizer(*state_, *inputs.reader);
}

double GradientModel::tokens(const data::Corpus& corpus, int64_t document) {
  std::vector<uint8_t> mask(size_t(corpus.document(document).length - 1));
  corpus.read_mask(document, 1, mask);
  return double(std::count(mask.begin(), mask.end(), 1));
}

int64_t GradientModel::unit(const data::Corpus& corpus) {
  return corpus.kind() == data::SetKind::kPreference ? 2 : 1;
}

double GradientModel::sign(const data::Corpus& corpus, int64_t document) {
  return unit(corpus) == 2 && document % 2 == 1 ? -1 : 1;
}

void GradientModel::differentiate(const data::Corpus& corpus, const std::vector<int64_t>& documents,
                                  const std::function<double(int64_t)>& weight) {
  const auto& data = state_->config().data;
  differentiate_text(state_->model, DocumentRows(corpus, documents, data.seq_len, data.mask_documents),
                     [&](const Batch& batch, size_t t) {
                       return sign(corpus, batch.document[t]) * weight(batch.document[t]);
                     });
}

void GradientModel::visit(bool preconditioned, const Body& body) {
  ModelState& model = state_->model;
  std::vector<float> moved;
  for (int g = 0; g < device::kNumGroups; ++g) {
    const auto group = device::Group(g);
    for (const comm::Piece& piece : state_->optimizer_context.pieces[g]) {
      const device::ParamRow& row = model.table.row(piece.row);
      const auto grad = model.store.grads(group).rows(piece.group_offset, piece.count);
      const int64_t begin = model.layout.at(piece.row).global_begin + piece.row_begin;
      if (!preconditioned) {
        body(row, begin, {grad.data(), size_t(grad.size())});
        continue;
      }
      moved.resize(size_t(piece.count));
      state_->optimizer->precondition(group, piece, grad, {moved.data(), {piece.count}});
      body(row, begin, moved);
    }
  }
}

std::vector<TargetDomain> target_domains(const data::Corpus* targets, int64_t tokens_per_domain) {
  require(targets != nullptr, ExitCode::kData,
          "there is no target text: the data has no such split; prepare it with --valid, or give --targets");
  require(
      targets->kind() != data::SetKind::kPrompts, ExitCode::kUsage,
      "prompts have no answers that could be a target; give --targets a set of text, conversations or pairs");
  const EvalSet set = choose_documents(*targets, tokens_per_domain, true);
  std::vector<TargetDomain> out;
  for (int k = 0; k < targets->num_domains(); ++k) {
    TargetDomain domain{targets->domain_name(k), {}, double(set.tokens[size_t(k)])};
    for (const int64_t d : set.documents) {
      // Both answers of a pair stay, whatever they hold.
      const bool trained = GradientModel::unit(*targets) == 2 || GradientModel::tokens(*targets, d) > 0;
      if (targets->document(d).domain == k && trained) domain.documents.push_back(d);
    }
    if (domain.tokens > 0) out.push_back(std::move(domain));
  }
  require(!out.empty(), ExitCode::kData, "the target text is empty");
  return out;
}

}  // namespace cadre::trainer
