#include "trainer/evaluation/scorer.h"

#include <algorithm>
#include <cmath>
#include <nlohmann/json.hpp>
#include <numeric>

#include "data/batch_rows.h"
#include "data/tokenizers/tokenizer_json.h"
#include "trainer/run/generate.h"

namespace cadre::trainer {
namespace {

// Left-over blanks of Python's rstrip that occur at the end of prompts.
size_t blanks_at_end(const std::string& text) {
  const size_t last = text.find_last_not_of(" \t\n\r\v\f");
  return text.size() - (last == std::string::npos ? 0 : last + 1);
}

void fill_row(const ScoreRequest& request, size_t row, Batch& batch) {
  const size_t inputs = request.tokens.size() - 1;
  std::vector<uint8_t> counts(inputs);
  for (size_t i = 0; i < inputs; ++i) counts[i] = i + static_cast<size_t>(request.scored) >= inputs;
  const size_t at = row * static_cast<size_t>(batch.seq_len);
  data::write_piece(request.tokens, counts, {.at = at, .document = static_cast<int64_t>(row)}, batch);
}

}  // namespace

std::vector<Window> rolling_windows(int64_t n, int64_t length, int64_t context) {
  std::vector<Window> windows;
  for (int64_t done = 0; done < n;) {
    const int64_t last = std::min(n, done == 0 ? length : done + length - context + 1);
    windows.push_back({std::max<int64_t>(0, last - length), done, last});
    done = last;
  }
  return windows;
}

Scorer::Scorer(ModelState& model, const data::Tokenizer& tokenizer, int64_t micro_batch, bool with_start)
    : model_(model),
      tokenizer_(tokenizer),
      length_(model.config.data.seq_len),
      capacity_(length_ * micro_batch),
      with_start_(with_start) {
  require(model.decoder.causal(), ExitCode::kUsage,
          "this model's router (expert choice) looks at later tokens, so it gives no probability of a text");
  require(tokenizer.vocab_size() <= model.config.model.vocab, ExitCode::kData,
          "the tokenizer has {} entries, the model {}", tokenizer.vocab_size(), model.config.model.vocab);
}

// Task files are prompts that their user wrote, so special tokens in them are meant.
std::vector<int32_t> Scorer::encode(const std::string& text) const {
  std::vector<int32_t> ids;
  if (const auto* const bpe = dynamic_cast<const data::BpeTokenizer*>(&tokenizer_)) {
    bpe->encode_with_specials(text, ids);
  } else {
    tokenizer_.encode(text, ids);
  }
  return ids;
}

std::vector<int32_t> Scorer::encode_behind_start(const std::string& text) const {
  std::vector<int32_t> ids = encode(text);
  if (with_start_) ids.insert(ids.begin(), tokenizer_.bos());
  return ids;
}

ScoreRequest Scorer::pair(std::string context, std::string continuation) const {
  const size_t blanks = blanks_at_end(context);
  continuation.insert(0, context, context.size() - blanks, blanks);
  context.resize(context.size() - blanks);
  ScoreRequest request;
  size_t cut = 1;
  if (context.empty()) {  // something has to stand before the first token
    request.tokens = encode(continuation);
    request.tokens.insert(request.tokens.begin(), tokenizer_.bos());
  } else {
    request.tokens = encode_behind_start(context + continuation);
    cut = encode_behind_start(context).size();
  }
  request.scored = static_cast<int64_t>(request.tokens.size()) - static_cast<int64_t>(cut);
  require(request.scored > 0 && request.scored <= length_, ExitCode::kData,
          "the continuation '{}' has {} tokens, expected 1 to {}", continuation, request.scored, length_);
  const size_t most = static_cast<size_t>(length_) + 1;
  if (request.tokens.size() > most)
    request.tokens.erase(request.tokens.begin(), request.tokens.end() - static_cast<ptrdiff_t>(most));
  return request;
}

std::vector<ScoreRequest> Scorer::rolling(const std::string& text, int64_t context) const {
  std::vector<int32_t> all = {tokenizer_.bos()};
  for (const int32_t id : encode(text)) all.push_back(id);
  std::vector<ScoreRequest> requests;
  for (const Window& window : rolling_windows(static_cast<int64_t>(all.size()) - 1, length_, context))
    requests.push_back(
        {{all.begin() + window.begin, all.begin() + window.last + 1}, window.last - window.first});
  return requests;
}

std::vector<Score> Scorer::score(const std::vector<ScoreRequest>& requests) {
  // Long ones first, so that a batch holds texts of one length; ties keep their order.
  std::vector<size_t> order(requests.size());
  std::iota(order.begin(), order.end(), size_t(0));
  std::ranges::stable_sort(order, std::greater(), [&](size_t i) { return requests[i].tokens.size(); });
  comm::Communicator& data = model_.mesh.data();
  std::vector<double> logp(requests.size(), 0.0);
  int64_t batch = 0;
  for (size_t at = 0; at < order.size(); ++batch) {
    const int64_t inputs = static_cast<int64_t>(requests[order[at]].tokens.size()) - 1;
    const size_t rows =
        std::min(order.size() - at, static_cast<size_t>(std::max<int64_t>(1, capacity_ / inputs)));
    if (batch % data.size() == data.rank())
      score_batch(
          requests,
          {order.begin() + static_cast<ptrdiff_t>(at), order.begin() + static_cast<ptrdiff_t>(at + rows)},
          logp);
    at += rows;
  }
  data.all_reduce(std::span<double>(logp), comm::ReduceOp::kSum, "evaluation: scores");
  std::vector<Score> scores;
  for (const double sum : logp) scores.push_back({sum, false});
  return scores;
}

void Scorer::score_batch(const std::vector<ScoreRequest>& requests, const std::vector<size_t>& rows,
                         std::vector<double>& logp) {
  const int64_t seq_len = static_cast<int64_t>(requests[rows[0]].tokens.size()) - 1;
  Batch batch = data::empty_batch(static_cast<int64_t>(rows.size()), seq_len);
  for (size_t row = 0; row < rows.size(); ++row) fill_row(requests[rows[row]], row, batch);
  const auto found = model_.decoder.forward(batch, false);
  for (int64_t t = 0; t < batch.num_tokens(); ++t) {
    if (batch.loss_mask[static_cast<size_t>(t)] != 0)
      logp[rows[static_cast<size_t>(t / seq_len)]] += double(found[t]);
  }
}

Score Scorer::score_one(const ScoreRequest& request) {
  const size_t total = request.tokens.size(), known = total - static_cast<size_t>(request.scored);
  auto cache = model_.decoder.make_cache(static_cast<int64_t>(total));
  std::vector<int32_t> next(request.tokens.begin(), request.tokens.begin() + static_cast<ptrdiff_t>(known));
  Score score{0, true};
  for (size_t i = known; i < total; ++i) {
    const auto logits = model_.decoder.extend(*cache, next);
    const double most = *std::max_element(logits.begin(), logits.end());
    double sum = 0;
    for (const float x : logits) sum += std::exp(double(x) - most);
    score.logp += double(logits[request.tokens[i]]) - most - std::log(sum);
    score.greedy = score.greedy && sample(logits, {.temperature = 0}, 0) == request.tokens[i];
    next = {request.tokens[i]};
  }
  return score;
}

std::vector<Score> Scorer::score_greedy(const std::vector<ScoreRequest>& requests) {
  comm::Communicator& data = model_.mesh.data();
  std::vector<double> logp(requests.size(), 0.0), greedy(requests.size(), 0.0);
  for (size_t i = static_cast<size_t>(data.rank()); i < requests.size();
       i += static_cast<size_t>(data.size())) {
    const Score score = score_one(requests[i]);
    logp[i] = score.logp;
    greedy[i] = score.greedy ? 1 : 0;
  }
  data.all_reduce(std::span<double>(logp), comm::ReduceOp::kSum, "evaluation: scores");
  data.all_reduce(std::span<double>(greedy), comm::ReduceOp::kSum, "evaluation: scores");
  std::vector<Score> scores;
  for (size_t i = 0; i < logp.size(); ++i) scores.push_back({logp[i], greedy[i] != 0});
  return scores;
}

std::string Scorer::answer(const std::string& context, const std::vector<std::string>& until,
                           int64_t max_tokens) {
  require(max_tokens < length_, ExitCode::kUsage,
          "max_gen_toks is {}, expected less than the model's {} tokens", max_tokens, length_);
  std::vector<int32_t> next = encode_behind_start(context);
  if (next.empty()) next = {tokenizer_.bos()};
  const int64_t room = length_ - max_tokens;
  if (static_cast<int64_t>(next.size()) > room) next.erase(next.begin(), next.end() - room);
  auto cache = model_.decoder.make_cache(static_cast<int64_t>(next.size()) + max_tokens);
  std::vector<int32_t> produced;
  std::string text;
  for (int64_t i = 0; i < max_tokens; ++i) {
    const int32_t token = sample(model_.decoder.extend(*cache, next), {.temperature = 0}, 0);
    if (token == tokenizer_.eos()) break;
    produced.push_back(token);
    next = {token};
    text = tokenizer_.decode(produced);
    size_t stop = std::string::npos;
    for (const std::string& mark : until) stop = std::min(stop, text.find(mark));
    if (stop != std::string::npos) return text.substr(0, stop);
  }
  return text;
}

std::vector<std::string> Scorer::generate(const std::vector<std::string>& contexts,
                                          const std::vector<std::string>& until, int64_t max_tokens) {
  comm::Communicator& data = model_.mesh.data();
  const auto ranks = static_cast<size_t>(data.size());
  nlohmann::json bytes = nlohmann::json::array();  // numbers, since an answer may be no UTF-8
  for (size_t i = static_cast<size_t>(data.rank()); i < contexts.size(); i += ranks) {
    const std::string text = answer(contexts[i], until, max_tokens);
    bytes.push_back(std::vector<uint8_t>(text.begin(), text.end()));
  }
  const std::vector<std::string> all = data.gather_texts(bytes.dump(), "evaluation: answers");
  std::vector<std::string> answers(contexts.size());
  for (size_t rank = 0; rank < ranks; ++rank) {
    const auto parts = nlohmann::json::parse(all[rank]).get<std::vector<std::vector<uint8_t>>>();
    for (size_t k = 0; k < parts.size(); ++k)
      answers[rank + k * ranks].assign(parts[k].begin(), parts[k].end());
  }
  return answers;
}

}  // namespace cadre::trainer
