#include "trainer/run/initial_model.h"

#include "data/tokenizer.h"
#include "trainer/run/checkpoint_folder.h"

namespace cadre::trainer {

namespace fs = std::filesystem;

base::Section with_initial_model(base::Section root) {
  if (!root.node().IsMap()) return root;
  const YAML::Node file = root.node(), init = file["init"];
  if (!init.IsDefined() || !init.IsScalar() || init.Scalar().empty()) return root;
  // Every rank looks for itself, so files are not hashed here; start_from's caller does that.
  const fs::path path = init.Scalar();
  const fs::path folder = find_index(path);
  const YAML::Node saved = YAML::Load(read_index(folder).config);
  YAML::Node run = root.node();  // added to and not copied: a copy would not know its lines
  for (const char* section : {"model", "moe"}) {
    const YAML::Node mine = file[section];
    const bool empty = !mine.IsDefined() || mine.IsNull();
    if (!saved[section].IsDefined() || (!empty && !mine.IsMap())) continue;  // read_run says what is wrong
    for (const auto& entry : saved[section]) {
      const std::string key = entry.first.Scalar();
      if (empty || !mine[key].IsDefined()) run[section][key] = YAML::Clone(entry.second);
    }
  }
  return root;
}

RunConfig load_run(const fs::path& file, const std::vector<std::string>& overrides) {
  return read_run(with_initial_model(base::parse_run_file(file, overrides)));
}

bool same_tokenizer(const CheckpointIndex& index, const fs::path& folder, const fs::path& tokenizer) {
  if (index.tokenizer.empty() || tokenizer.empty()) return true;
  return data::load_tokenizer(folder / index.tokenizer)->definition() ==
         data::load_tokenizer(tokenizer)->definition();
}

}  // namespace cadre::trainer
