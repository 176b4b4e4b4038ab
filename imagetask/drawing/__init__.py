"""Pictures that imagetask draws itself: lettering and scenery of placeholders, contact sheets."""
