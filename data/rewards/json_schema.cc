// 1 when the response's answer is JSON that fits a schema (rewards/schema.h); else 0.
#include "data/rewards/makers.h"
#include "data/rewards/schema.h"
#include "data/rewards/single.h"
#include "parallel/base/files.h"
#include "parallel/base/json_depth.h"

namespace cadre::data {
namespace {

using nlohmann::json;

constexpr int kMostLevels = 200;

class JsonSchema final : public SingleReward {
 public:
  JsonSchema(const json& schema, const std::string& where, std::string after)
      : schema_(schema, where), after_(std::move(after)) {}

 protected:
  RewardResult judge(const RewardRequest& request) const override {
    // JSON goes over lines: what follows the marker, to the end.
    std::string_view text = request.response;
    if (!after_.empty()) {
      const size_t at = text.rfind(after_);
      text = at == std::string_view::npos ? std::string_view() : text.substr(at + after_.size());
    }
    text = trimmed(text);
    RewardResult result{.value = 0, .parsed = std::string(text), .failure = {}};
    if (base::json_depth(text) > kMostLevels) return result;
    const json value = json::parse(text, nullptr, false);
    result.value = !value.is_discarded() && schema_.misfit(value).empty() ? 1 : 0;
    return result;
  }

 private:
  Schema schema_;
  std::string after_;
};

}  // namespace

std::unique_ptr<Reward> make_json_schema(base::Section section) {
  const bool inline_schema = section.has("schema");
  if (inline_schema == section.has("file"))
    section.reject("schema", "give the schema as JSON text in `schema`, or its path in `file`, and not both");
  const std::string key = inline_schema ? "schema" : "file", given = section.text(key);
  const std::string after = section.text("after", "");
  section.finish();
  const std::string text = inline_schema ? given : base::read_file(given, ExitCode::kUsage);
  json schema;
  try {
    schema = json::parse(text);
  } catch (const json::exception& error) {
    section.reject(key, fmt::format("the schema is no JSON: {}", error.what()));
  }
  return std::make_unique<JsonSchema>(schema, section.source() + ": reward.schema", after);
}

}  // namespace cadre::data
