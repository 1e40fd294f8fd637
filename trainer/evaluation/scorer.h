// Asks a model for log-likelihoods and answers. What a request gives does not depend on the number of ranks: requests
// are put into batches first, and whole batches are shared out.
#pragma once

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "data/tokenizer.h"
#include "trainer/run/train_state.h"

namespace cadre::trainer {

// Tokens of which the last `scored` are predicted, each from all before it.
struct ScoreRequest {
  std::vector<int32_t> tokens;
  int64_t scored = 0;
};
struct Score {
  double logp = 0;      // nats, summed over the scored tokens
  bool greedy = false;  // each of them was the likeliest; only of score_greedy
};

// Windows over n tokens behind a start: prediction [first, last) of the tokens, from at most `length` inputs, the start
// among them. Each window but the first sees at least `context` tokens before those that it predicts, and as many as fit;
// 1 gives the harness's windows.
struct Window {
  int64_t begin, first, last;  // inputs are begin .. last - 1 of the start and the tokens; the start is 0
};
std::vector<Window> rolling_windows(int64_t n, int64_t length, int64_t context);

class Scorer {
 public:
  // At most `micro_batch` sequences of the model's length at a time; the model was made for as many. `start` is put
  // before every text, or nothing when with_start is false. All are borrowed.
  Scorer(ModelState& model, const data::Tokenizer& tokenizer, int64_t micro_batch, bool with_start);

  // A continuation behind a context. Blanks at the end of the context count to the continuation, and the two are cut
  // where the context's own tokens end, as in the harness. Too long a context loses its beginning.
  ScoreRequest pair(std::string context, std::string continuation) const;
  // All tokens of a text, in windows.
  std::vector<ScoreRequest> rolling(const std::string& text, int64_t context) const;

  // Collective over the world; the same results on every rank.
  std::vector<Score> score(const std::vector<ScoreRequest>& requests);
  std::vector<Score> score_greedy(const std::vector<ScoreRequest>& requests);
  // The likeliest text behind each context, up to max_tokens, the end of a document, or one of the texts in `until`,
  // which is left out.
  std::vector<std::string> generate(const std::vector<std::string>& contexts,
                                    const std::vector<std::string>& until, int64_t max_tokens);

 private:
  std::vector<int32_t> encode(const std::string& text) const;
  std::vector<int32_t> encode_behind_start(const std::string& text) const;
  std::string answer(const std::string& context, const std::vector<std::string>& until, int64_t max_tokens);
  Score score_one(const ScoreRequest& request);
  void score_batch(const std::vector<ScoreRequest>& requests, const std::vector<size_t>& rows,
                   std::vector<double>& logp);

  ModelState& model_;
  const data::Tokenizer& tokenizer_;
  const int64_t length_, capacity_;  // of a sequence and of a batch, in tokens
  const bool with_start_;
};

}  // namespace cadre::trainer
