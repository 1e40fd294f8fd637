#include "optim/evaluation_input.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <nlohmann/json.hpp>

#include "parallel/base/errors.h"
#include "parallel/base/json_depth.h"

namespace cadre::optim {
namespace {

using nlohmann::json;

// Python writes NaN and Infinity, which JSON lacks: outside of strings they become null.
std::string without_non_finite(const std::string& text) {
  std::string out;
  bool in_string = false;
  for (size_t i = 0; i < text.size();) {
    if (text[i] == '"' && (i == 0 || text[i - 1] != '\\')) in_string = !in_string;
    const std::string_view rest = std::string_view(text).substr(i);
    size_t skip = 0;
    for (const std::string_view word : {"NaN", "Infinity", "-Infinity"}) {
      if (!in_string && rest.substr(0, word.size()) == word) skip = word.size();
    }
    out += skip > 0 ? "null" : text.substr(i, 1);
    i += std::max<size_t>(skip, 1);
  }
  return out;
}

struct Row {
  std::vector<double> mask;
  std::vector<std::vector<double>> logp;  // by kArrays; empty where absent
  double advantage = 0, reward = 0;
  int64_t group = 0;
};
constexpr const char* kArrays[] = {"logp", "logp_old", "logp_rollout", "logp_ref"};
constexpr const char* kRowKeys[] = {"group", "reward",   "advantage",    "mask",
                                    "logp",  "logp_old", "logp_rollout", "logp_ref"};

class Reader {
 public:
  Reader(const std::string& source, const ObjectiveInputs& inputs) : source_(source), inputs_(inputs) {}

  Row row(const json& node, const std::string& name, int64_t number) const {
    check(node.is_object(), "{}: found {}, expected an object", name, node.type_name());
    check_keys(node, name);
    Row row;
    check(node.contains("mask"), "{}: mask is missing", name);
    row.mask = array(node["mask"], name + ".mask");
    for (double m : row.mask) check(m == 0 || m == 1, "{}.mask: found {}, expected 0 or 1", name, m);
    for (const char* key : kArrays) {
      row.logp.emplace_back();
      if (!node.contains(key)) continue;
      row.logp.back() = array(node[key], name + "." + key);
      check_live(row.logp.back(), row.mask, name + "." + key);
    }
    check(!row.logp[0].empty() || row.mask.empty(), "{}: logp is missing", name);
    if (inputs_.advantage) read_reward(node, name, number, row);
    return row;
  }

  template <class... Args>
  void check(bool condition, fmt::format_string<Args...> format, Args&&... args) const {
    if (!condition)
      throw Error(ExitCode::kData, source_ + ": " + fmt::format(format, std::forward<Args>(args)...));
  }

 private:
  void check_keys(const json& node, const std::string& name) const {
    for (const auto& [key, value] : node.items()) {
      const bool known = std::find(std::begin(kRowKeys), std::end(kRowKeys), key) != std::end(kRowKeys);
      check(known, "{}: unknown key '{}', expected {}", name, key, fmt::join(kRowKeys, ", "));
    }
  }

  std::vector<double> array(const json& node, const std::string& name) const {
    check(node.is_array(), "{}: found {}, expected an array of numbers", name, node.type_name());
    std::vector<double> out;
    for (const json& x : node) {
      check(x.is_number() || x.is_null() || x.is_boolean(), "{}[{}]: found {}, expected a number", name,
            out.size(), x.dump());
      out.push_back(x.is_null()      ? std::numeric_limits<double>::quiet_NaN()
                    : x.is_boolean() ? double(x.get<bool>())
                                     : x.get<double>());
    }
    return out;
  }

  void check_live(const std::vector<double>& logp, const std::vector<double>& mask,
                  const std::string& name) const {
    check(logp.size() == mask.size(), "{} has {} entries, the mask has {}: one a token is expected", name,
          logp.size(), mask.size());
    for (size_t i = 0; i < logp.size(); ++i) {
      check(mask[i] == 0 || (std::isfinite(logp[i]) && logp[i] <= 0),
            "{}[{}]: found {}, expected a log-probability: a finite number, at most 0 (the mask says that it "
            "counts)",
            name, i, logp[i]);
    }
  }

  double number(const json& node, const char* key, const std::string& name) const {
    check(node[key].is_number() && std::isfinite(node[key].get<double>()),
          "{}.{}: found {}, expected a number", name, key, node[key].dump());
    return node[key].get<double>();
  }

  void read_reward(const json& node, const std::string& name, int64_t number_of_row, Row& row) const {
    const bool given = inputs_.advantage_kind == AdvantageKind::kGiven && node.contains("advantage");
    check(given || node.contains("reward"), "{}: reward is missing", name);
    row.reward = number(node, given ? "advantage" : "reward", name);
    row.group = number_of_row;
    if (!node.contains("group")) return;
    check(node["group"].is_number_integer(), "{}.group: found {}, expected an integer", name,
          node["group"].dump());
    row.group = node["group"].get<int64_t>();
  }

  const std::string& source_;
  const ObjectiveInputs& inputs_;
};

std::vector<Row> read_rows(const json& root, const Reader& reader, bool pairs) {
  const char* key = pairs ? "pairs" : "sequences";
  reader.check(root.is_object() && root.contains(key) && root[key].is_array(),
               "expected an object with the array \"{}\": this objective works on {}", key, key);
  std::vector<Row> rows;
  for (size_t i = 0; i < root[key].size(); ++i) {
    const json& entry = root[key][i];
    const std::string name = fmt::format("{}[{}]", key, i);
    if (!pairs) {
      rows.push_back(reader.row(entry, name, -1 - int64_t(i)));
      continue;
    }
    for (const char* side : {"chosen", "rejected"}) {
      reader.check(entry.is_object() && entry.contains(side), "{}: {} is missing", name, side);
      rows.push_back(reader.row(entry[side], name + "." + side, 0));
    }
  }
  return rows;
}

// Copies one array of every row; masked entries become 0. Absent when any row with tokens lacks it.
std::vector<double> flatten(const std::vector<Row>& rows, size_t which, int64_t seq_len) {
  std::vector<double> out(rows.size() * size_t(seq_len), 0.0);
  for (size_t r = 0; r < rows.size(); ++r) {
    const std::vector<double>& values = rows[r].logp[which];
    if (values.empty() && !rows[r].mask.empty()) return {};
    for (size_t i = 0; i < values.size(); ++i) {
      if (rows[r].mask[i] != 0) out[r * size_t(seq_len) + i] = values[i];
    }
  }
  return out;
}

BatchCounts count(const std::vector<Row>& rows, bool pairs) {
  BatchCounts counts;
  std::vector<bool> live;
  for (const Row& row : rows) {
    const int64_t tokens = std::count(row.mask.begin(), row.mask.end(), 1.0);
    counts.trained_tokens += tokens;
    counts.real_tokens += int64_t(row.mask.size());
    counts.sequences += !row.mask.empty();
    counts.trained_segments += tokens > 0;
    live.push_back(tokens > 0);
  }
  for (size_t i = 0; pairs && i + 1 < live.size(); i += 2) counts.pairs += live[i] || live[i + 1];
  return counts;
}

}  // namespace

EvaluationInput read_evaluation(const std::string& text, const std::string& source,
                                const ObjectiveInputs& inputs) {
  require(base::json_depth(text) <= base::kMaxJsonDepth, ExitCode::kData, "{}: nested too deeply", source);
  json root;
  try {
    root = json::parse(without_non_finite(text));
  } catch (const json::exception& error) {
    fail(ExitCode::kData, "{}: not JSON: {}", source, error.what());
  }
  const Reader reader(source, inputs);
  const std::vector<Row> rows = read_rows(root, reader, inputs.pairs);
  EvaluationInput out;
  out.pairs = inputs.pairs;
  Batch& batch = out.batch;
  batch.num_sequences = int64_t(rows.size());
  batch.seq_len = 1;
  for (const Row& row : rows) batch.seq_len = std::max(batch.seq_len, int64_t(row.mask.size()));
  for (const Row& row : rows) {
    out.lengths.push_back(row.mask.size());
    for (int64_t i = 0; i < batch.seq_len; ++i) {
      const bool real = i < int64_t(row.mask.size());
      batch.loss_mask.push_back(real ? float(row.mask[size_t(i)]) : 0.0f);
      // An empty sequence still has its place: numbers of segments are numbers of sequences here.
      batch.segment.push_back(0);
    }
  }
  out.logp = flatten(rows, 0, batch.seq_len);
  batch.logp_old = flatten(rows, 1, batch.seq_len);
  batch.logp_rollout = flatten(rows, 2, batch.seq_len);
  batch.logp_reference = flatten(rows, 3, batch.seq_len);
  out.counts = count(rows, inputs.pairs);
  if (inputs.advantage) {
    std::vector<double> reward;
    std::vector<int64_t> group;
    for (const Row& row : rows) {
      reward.push_back(row.reward);
      group.push_back(row.group);
    }
    batch.advantage = compute_advantages(inputs.advantage_kind, reward, group);
  }
  return out;
}

}  // namespace cadre::optim
