"""The search for better settings with KerasTuner: `search.make_tuner` starts one, `report.write_results` ends it."""
